#include "keymgr/kmip.h"

#include <string.h>

#include "walcrypt/secmem.h"

static void
begin(struct kmip *k, struct kmip_question *q, enum kmip_operation op)
{
	kmip_question_begin(q, k->buf, KMIP_MESSAGE_MAX, k->minor, op);
}

/* Send the question that has been put together; payload is lent until the next one. */
static int
ask(struct kmip *k, struct kmip_question *q, enum kmip_operation op, struct ttlv *payload, struct err *err)
{
	size_t len, total;

	if (kmip_question_end(q, &len, err) != 0 || tlslink_send(k->link, k->buf, len, err) != 0)
		return -1;
	secmem_wipe(k->buf, len);
	if (tlslink_recv(k->link, k->buf, TTLV_HEADER_LEN, err) != 0)
		return -1;
	if ((total = ttlv_total(k->buf, KMIP_MESSAGE_MAX)) == 0) {
		/* another protocol's greeting is such a length too */
		err_set(err, ERR_FAILED, "the answer of \"%s\" is longer than %d bytes, or not KMIP", k->peer.host_port,
		        KMIP_MESSAGE_MAX);
		return -1;
	}
	if (tlslink_recv(k->link, k->buf + TTLV_HEADER_LEN, total - TTLV_HEADER_LEN, err) != 0)
		return -1;
	return kmip_answer_read(k->buf, total, op, payload, err);
}

int
kmip_open(struct kmip *k, struct err *err)
{
	struct kmip_question q;
	struct ttlv payload;

	k->minor = 2;
	if ((k->buf = secmem_alloc(KMIP_MESSAGE_MAX, err)) == NULL || (k->link = tlslink_open(&k->peer, err)) == NULL)
		return -1;
	begin(k, &q, KMIP_DISCOVER_VERSIONS);
	kmip_put_versions(&q);
	if (ask(k, &q, KMIP_DISCOVER_VERSIONS, &payload, err) != 0)
		return -1;
	return kmip_read_versions(&payload, &k->minor, err);
}

void
kmip_close(struct kmip *k)
{
	tlslink_close(k->link);
	secmem_free(k->buf);
	memset(k, 0, sizeof(*k));
}

int
kmip_locate(struct kmip *k, const char *name, char (*uids)[KMIP_UID_MAX + 1], size_t max, size_t *n, struct err *err)
{
	struct kmip_question q;
	struct ttlv payload;

	begin(k, &q, KMIP_LOCATE);
	kmip_put_search(&q, name);
	if (ask(k, &q, KMIP_LOCATE, &payload, err) != 0)
		return -1;
	return kmip_read_uids(&payload, uids, max, n, err);
}

int
kmip_attributes(struct kmip *k, const char *uid, const char *wanted, struct kmip_attributes *a, struct err *err)
{
	struct kmip_question q;
	struct ttlv payload;

	begin(k, &q, KMIP_GET_ATTRIBUTES);
	kmip_put_uid(&q, uid);
	kmip_put_attributes(&q);
	if (ask(k, &q, KMIP_GET_ATTRIBUTES, &payload, err) != 0)
		return -1;
	return kmip_read_attributes(&payload, wanted, a, err);
}

int
kmip_get(struct kmip *k, const char *uid, uint8_t key[static KEK_LEN], struct err *err)
{
	struct kmip_question q;
	struct ttlv payload;
	int result = -1;

	begin(k, &q, KMIP_GET);
	kmip_put_uid(&q, uid);
	kmip_put_wanted(&q);
	if (ask(k, &q, KMIP_GET, &payload, err) == 0)
		result = kmip_read_key(&payload, uid, key, err);
	secmem_wipe(k->buf, KMIP_MESSAGE_MAX);
	return result;
}

int
kmip_register(struct kmip *k, const char *name, const uint8_t key[static KEK_LEN], char uid[static KMIP_UID_MAX + 1],
              struct err *err)
{
	struct kmip_question q;
	struct ttlv payload;

	begin(k, &q, KMIP_REGISTER);
	kmip_put_key(&q, name, key);
	if (ask(k, &q, KMIP_REGISTER, &payload, err) != 0)
		return -1;
	return kmip_read_uid(&payload, uid, err);
}

/* An operation on an object whose answer says no more than that it was done. */
static int
ask_done(struct kmip *k, const char *uid, enum kmip_operation op, struct err *err)
{
	struct kmip_question q;
	struct ttlv payload;

	begin(k, &q, op);
	kmip_put_uid(&q, uid);
	if (op == KMIP_REVOKE)
		kmip_put_revocation(&q);
	return ask(k, &q, op, &payload, err);
}

int
kmip_activate(struct kmip *k, const char *uid, struct err *err)
{
	return ask_done(k, uid, KMIP_ACTIVATE, err);
}

int
kmip_revoke(struct kmip *k, const char *uid, struct err *err)
{
	return ask_done(k, uid, KMIP_REVOKE, err);
}

int
kmip_destroy(struct kmip *k, const char *uid, struct err *err)
{
	return ask_done(k, uid, KMIP_DESTROY, err);
}
