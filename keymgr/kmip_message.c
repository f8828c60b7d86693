#include "keymgr/kmip_message.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* KMIP 1.4 section 9.1.3.1 */
enum tag {
	TAG_ATTRIBUTE = 0x420008,
	TAG_ATTRIBUTE_NAME = 0x42000A,
	TAG_ATTRIBUTE_VALUE = 0x42000B,
	TAG_BATCH_COUNT = 0x42000D,
	TAG_BATCH_ITEM = 0x42000F,
	TAG_ALGORITHM = 0x420028,
	TAG_LENGTH = 0x42002A,
	TAG_KEY_BLOCK = 0x420040,
	TAG_KEY_FORMAT_TYPE = 0x420042,
	TAG_KEY_MATERIAL = 0x420043,
	TAG_KEY_VALUE = 0x420045,
	TAG_KEY_WRAPPING_DATA = 0x420046,
	TAG_MAXIMUM_ITEMS = 0x42004F,
	TAG_NAME_TYPE = 0x420054,
	TAG_NAME_VALUE = 0x420055,
	TAG_OBJECT_TYPE = 0x420057,
	TAG_OPERATION = 0x42005C,
	TAG_PROTOCOL_VERSION = 0x420069,
	TAG_MAJOR = 0x42006A,
	TAG_MINOR = 0x42006B,
	TAG_REQUEST_HEADER = 0x420077,
	TAG_REQUEST_MESSAGE = 0x420078,
	TAG_REQUEST_PAYLOAD = 0x420079,
	TAG_RESPONSE_HEADER = 0x42007A,
	TAG_RESPONSE_MESSAGE = 0x42007B,
	TAG_RESPONSE_PAYLOAD = 0x42007C,
	TAG_RESULT_MESSAGE = 0x42007D,
	TAG_RESULT_REASON = 0x42007E,
	TAG_RESULT_STATUS = 0x42007F,
	TAG_REVOCATION_REASON = 0x420081,
	TAG_REVOCATION_REASON_CODE = 0x420082,
	TAG_SYMMETRIC_KEY = 0x42008F,
	TAG_TEMPLATE_ATTRIBUTE = 0x420091,
	TAG_UID = 0x420094
};

#define OBJECT_SYMMETRIC_KEY 2
#define FORMAT_RAW 1
#define ALGORITHM_AES 3
#define NAME_UNINTERPRETED 1
#define CESSATION_OF_OPERATION 5
#define MAY_ENCRYPT_AND_WRAP (0x4 | 0x8 | 0x10 | 0x20) /* encrypt, decrypt, wrap, unwrap */
#define MINOR_MIN 2
#define MINOR_MAX 4

static void
put_version(struct ttlv_writer *w, unsigned minor)
{
	size_t version = ttlv_begin(w, TAG_PROTOCOL_VERSION);

	ttlv_put_integer(w, TAG_MAJOR, 1);
	ttlv_put_integer(w, TAG_MINOR, (int32_t)minor);
	ttlv_end(w, version);
}

void
kmip_question_begin(struct kmip_question *q, uint8_t *data, size_t room, unsigned minor, enum kmip_operation op)
{
	size_t header;

	*q = (struct kmip_question){.w = {.data = data, .room = room}};
	q->message = ttlv_begin(&q->w, TAG_REQUEST_MESSAGE);
	header = ttlv_begin(&q->w, TAG_REQUEST_HEADER);
	put_version(&q->w, minor);
	ttlv_put_integer(&q->w, TAG_BATCH_COUNT, 1);
	ttlv_end(&q->w, header);
	q->item = ttlv_begin(&q->w, TAG_BATCH_ITEM);
	ttlv_put_enum(&q->w, TAG_OPERATION, op);
	q->payload = ttlv_begin(&q->w, TAG_REQUEST_PAYLOAD);
}

int
kmip_question_end(struct kmip_question *q, size_t *len, struct err *err)
{
	ttlv_end(&q->w, q->payload);
	ttlv_end(&q->w, q->item);
	ttlv_end(&q->w, q->message);
	*len = q->w.len;
	return ttlv_ok(&q->w) ? 0 : err_set(err, ERR_USAGE, "the question to the KMIP server is too long");
}

void
kmip_put_versions(struct kmip_question *q)
{
	for (unsigned minor = MINOR_MAX; minor >= MINOR_MIN; minor--)
		put_version(&q->w, minor);
}

void
kmip_put_uid(struct kmip_question *q, const char *uid)
{
	ttlv_put_text(&q->w, TAG_UID, uid);
}

void
kmip_put_wanted(struct kmip_question *q)
{
	ttlv_put_enum(&q->w, TAG_KEY_FORMAT_TYPE, FORMAT_RAW);
}

void
kmip_put_attributes(struct kmip_question *q)
{
	ttlv_put_text(&q->w, TAG_ATTRIBUTE_NAME, "Name");
	ttlv_put_text(&q->w, TAG_ATTRIBUTE_NAME, "State");
}

static size_t
attribute_begin(struct ttlv_writer *w, const char *name)
{
	size_t begun = ttlv_begin(w, TAG_ATTRIBUTE);

	ttlv_put_text(w, TAG_ATTRIBUTE_NAME, name);
	return begun;
}

static void
put_name(struct ttlv_writer *w, const char *name)
{
	size_t attribute = attribute_begin(w, "Name"), value = ttlv_begin(w, TAG_ATTRIBUTE_VALUE);

	ttlv_put_text(w, TAG_NAME_VALUE, name);
	ttlv_put_enum(w, TAG_NAME_TYPE, NAME_UNINTERPRETED);
	ttlv_end(w, value);
	ttlv_end(w, attribute);
}

void
kmip_put_search(struct kmip_question *q, const char *name)
{
	size_t attribute;

	ttlv_put_integer(&q->w, TAG_MAXIMUM_ITEMS, KMIP_UIDS_MAX);
	attribute = attribute_begin(&q->w, "Object Type");
	ttlv_put_enum(&q->w, TAG_ATTRIBUTE_VALUE, OBJECT_SYMMETRIC_KEY);
	ttlv_end(&q->w, attribute);
	if (name != NULL)
		put_name(&q->w, name);
}

void
kmip_put_key(struct kmip_question *q, const char *name, const uint8_t key[static KEK_LEN])
{
	struct ttlv_writer *w = &q->w;
	size_t template, attribute, object, block, value;

	ttlv_put_enum(w, TAG_OBJECT_TYPE, OBJECT_SYMMETRIC_KEY);
	template = ttlv_begin(w, TAG_TEMPLATE_ATTRIBUTE);
	put_name(w, name);
	attribute = attribute_begin(w, "Cryptographic Usage Mask");
	ttlv_put_integer(w, TAG_ATTRIBUTE_VALUE, MAY_ENCRYPT_AND_WRAP);
	ttlv_end(w, attribute);
	ttlv_end(w, template);
	object = ttlv_begin(w, TAG_SYMMETRIC_KEY);
	block = ttlv_begin(w, TAG_KEY_BLOCK);
	ttlv_put_enum(w, TAG_KEY_FORMAT_TYPE, FORMAT_RAW);
	value = ttlv_begin(w, TAG_KEY_VALUE);
	ttlv_put_bytes(w, TAG_KEY_MATERIAL, key, KEK_LEN);
	ttlv_end(w, value);
	ttlv_put_enum(w, TAG_ALGORITHM, ALGORITHM_AES);
	ttlv_put_integer(w, TAG_LENGTH, 8 * KEK_LEN);
	ttlv_end(w, block);
	ttlv_end(w, object);
}

void
kmip_put_revocation(struct kmip_question *q)
{
	size_t reason = ttlv_begin(&q->w, TAG_REVOCATION_REASON);

	ttlv_put_enum(&q->w, TAG_REVOCATION_REASON_CODE, CESSATION_OF_OPERATION);
	ttlv_end(&q->w, reason);
}

static int
malformed(const char *what, struct err *err)
{
	return err_set(err, ERR_FAILED, "the KMIP server's answer has no %s, or one that is malformed", what);
}

/* A batch item that tells of a failure. */
static int
failure(const struct ttlv *item, struct err *err)
{
	enum { ITEM_NOT_FOUND = 1, NOT_AUTHENTICATED = 3, UNSUPPORTED = 5, PERMISSION_DENIED = 0xC };
	char message[256] = "";
	uint32_t reason = 0;
	struct ttlv child;

	if (ttlv_find(item, TAG_RESULT_REASON, TTLV_ENUM, &child))
		reason = ttlv_u32(&child);
	if (ttlv_find(item, TAG_RESULT_MESSAGE, TTLV_TEXT, &child))
		snprintf(message, sizeof(message), "%.*s", (int)(child.len < 255 ? child.len : 255), (const char *)child.value);
	for (char *p = message; *p != '\0'; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	switch (reason) {
	case ITEM_NOT_FOUND:
		err_set(err, ERR_FAILED, "the KMIP server has no such object");
		err->os_errno = ENOENT;
		break;
	case NOT_AUTHENTICATED:
	case PERMISSION_DENIED:
		err_set(err, ERR_UNREACHABLE, "the KMIP server denies it");
		err_hint(err, "What it allows depends on the client certificate: cert_file, and the server's policy.");
		break;
	case UNSUPPORTED:
		err_set(err, ERR_FAILED, "the KMIP server does not know the operation");
		err->os_errno = ENOSYS;
		break;
	default:
		err_set(err, ERR_FAILED, "the KMIP server failed, with reason %#x", (unsigned)reason);
	}
	return message[0] != '\0' ? err_detail(err, "It said: %s", message) : -1;
}

int
kmip_answer_read(const uint8_t *data, size_t len, enum kmip_operation op, struct ttlv *payload, struct err *err)
{
	struct ttlv message, item, child;

	if (!ttlv_parse(data, len, &message) || message.tag != TAG_RESPONSE_MESSAGE || message.type != TTLV_STRUCTURE)
		return err_set(err, ERR_FAILED, "the KMIP server's answer is malformed");
	if (!ttlv_find(&message, TAG_RESPONSE_HEADER, TTLV_STRUCTURE, &child))
		return malformed("header", err);
	if (!ttlv_find(&message, TAG_BATCH_ITEM, TTLV_STRUCTURE, &item))
		return malformed("result", err);
	if (!ttlv_find(&item, TAG_RESULT_STATUS, TTLV_ENUM, &child))
		return malformed("status", err);
	if (ttlv_u32(&child) != 0)
		return failure(&item, err);
	if (!ttlv_find(&item, TAG_OPERATION, TTLV_ENUM, &child) || ttlv_u32(&child) != op)
		return err_set(err, ERR_FAILED, "the KMIP server answered another question");
	if (!ttlv_find(&item, TAG_RESPONSE_PAYLOAD, TTLV_STRUCTURE, payload))
		*payload = (struct ttlv){.tag = TAG_RESPONSE_PAYLOAD, .type = TTLV_STRUCTURE, .value = data};
	return 0;
}

int
kmip_read_versions(const struct ttlv *payload, unsigned *minor, struct err *err)
{
	struct ttlv version, part;
	bool there;

	for (there = ttlv_next(payload, NULL, &version); there; there = ttlv_next(payload, &version, &version)) {
		if (version.tag != TAG_PROTOCOL_VERSION || !ttlv_find(&version, TAG_MAJOR, TTLV_INTEGER, &part) ||
		    ttlv_u32(&part) != 1 || !ttlv_find(&version, TAG_MINOR, TTLV_INTEGER, &part))
			continue;
		*minor = ttlv_u32(&part);
		if (*minor >= MINOR_MIN && *minor <= MINOR_MAX)
			return 0;
	}
	return err_set(err, ERR_FAILED, "the KMIP server speaks none of the versions 1.%d to 1.%d", MINOR_MIN, MINOR_MAX);
}

static int
read_text(const struct ttlv *item, char *out, size_t out_len, const char *what, struct err *err)
{
	if (item->len > 0 && ttlv_text(item, out, out_len))
		return 0;
	return err_set(err, ERR_FAILED, "the KMIP server's answer has %s that is empty, or longer than %zu bytes", what,
	               out_len - 1);
}

int
kmip_read_uid(const struct ttlv *payload, char uid[static KMIP_UID_MAX + 1], struct err *err)
{
	struct ttlv child;

	if (!ttlv_find(payload, TAG_UID, TTLV_TEXT, &child))
		return malformed("identifier", err);
	return read_text(&child, uid, KMIP_UID_MAX + 1, "an identifier", err);
}

int
kmip_read_uids(const struct ttlv *payload, char (*uids)[KMIP_UID_MAX + 1], size_t max, size_t *n, struct err *err)
{
	struct ttlv child;

	*n = 0;
	for (bool there = ttlv_next(payload, NULL, &child); there; there = ttlv_next(payload, &child, &child)) {
		if (child.tag != TAG_UID || child.type != TTLV_TEXT)
			continue;
		if (*n == max)
			return err_set(err, ERR_FAILED, "the KMIP server has more than %zu symmetric keys", max);
		if (read_text(&child, uids[*n], KMIP_UID_MAX + 1, "an identifier", err) != 0)
			return -1;
		++*n;
	}
	return 0;
}

int
kmip_read_key(const struct ttlv *payload, const char *uid, uint8_t key[static KEK_LEN], struct err *err)
{
	struct ttlv object, block, value, child;

	if (!ttlv_find(payload, TAG_UID, TTLV_TEXT, &child) || child.len != strlen(uid) ||
	    memcmp(child.value, uid, child.len) != 0)
		return err_set(err, ERR_FAILED, "the KMIP server answered with another object");
	if (!ttlv_find(payload, TAG_SYMMETRIC_KEY, TTLV_STRUCTURE, &object) ||
	    !ttlv_find(&object, TAG_KEY_BLOCK, TTLV_STRUCTURE, &block))
		return err_set(err, ERR_FAILED, "the KMIP server's object is no symmetric key");
	if (ttlv_find(&block, TAG_KEY_WRAPPING_DATA, TTLV_STRUCTURE, &child))
		return err_set(err, ERR_FAILED, "the KMIP server's key is wrapped by another one");
	if (!ttlv_find(&block, TAG_KEY_FORMAT_TYPE, TTLV_ENUM, &child) || ttlv_u32(&child) != FORMAT_RAW)
		return err_set(err, ERR_FAILED, "the KMIP server's key is not in raw format");
	if (!ttlv_find(&block, TAG_KEY_VALUE, TTLV_STRUCTURE, &value) ||
	    !ttlv_find(&value, TAG_KEY_MATERIAL, TTLV_BYTES, &child))
		return malformed("key", err);
	if (child.len != KEK_LEN) {
		err_set(err, ERR_FAILED, "the KMIP server's key has %zu bytes", child.len);
		return err_hint(err, "A cluster key has %d.", KEK_LEN);
	}
	memcpy(key, child.value, KEK_LEN);
	return 0;
}

static int
take_name(const struct ttlv *value, const char *wanted, struct kmip_attributes *a, struct err *err)
{
	char name[KMIP_NAME_MAX + 1];
	struct ttlv text;

	if (value->type != TTLV_STRUCTURE || !ttlv_find(value, TAG_NAME_VALUE, TTLV_TEXT, &text))
		return malformed("name", err);
	if (read_text(&text, name, sizeof(name), "a name", err) != 0)
		return -1;
	if (a->names++ == 0 || (wanted != NULL && strcmp(name, wanted) == 0))
		memcpy(a->name, name, sizeof(name));
	return 0;
}

int
kmip_read_attributes(const struct ttlv *payload, const char *wanted, struct kmip_attributes *a, struct err *err)
{
	struct ttlv attribute, child;
	char name[64];

	*a = (struct kmip_attributes){0};
	for (bool there = ttlv_next(payload, NULL, &attribute); there; there = ttlv_next(payload, &attribute, &attribute)) {
		if (attribute.tag != TAG_ATTRIBUTE || !ttlv_find(&attribute, TAG_ATTRIBUTE_NAME, TTLV_TEXT, &child) ||
		    !ttlv_text(&child, name, sizeof(name)))
			continue;
		for (there = ttlv_next(&attribute, NULL, &child); there && child.tag != TAG_ATTRIBUTE_VALUE;)
			there = ttlv_next(&attribute, &child, &child);
		if (!there)
			return malformed("attribute's value", err);
		if (strcmp(name, "State") == 0) {
			if (child.type != TTLV_ENUM)
				return malformed("state", err);
			a->state = ttlv_u32(&child);
		} else if (strcmp(name, "Name") == 0 && take_name(&child, wanted, a, err) != 0)
			return -1;
	}
	return 0;
}
