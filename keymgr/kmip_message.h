/*
 * kmip_message: questions to a KMIP server and its answers as bytes (OASIS KMIP 1.2 to 1.4, in TTLV). One batch item a
 * message. Of an answer everything is checked before anything is taken from it.
 */
#ifndef KEYMGR_KMIP_MESSAGE_H
#define KEYMGR_KMIP_MESSAGE_H

#include "common/err.h"
#include "keymgr/ttlv.h"
#include "walcrypt/key.h"

#define KMIP_UID_MAX 63   /* bytes of an object's identifier that we take */
#define KMIP_NAME_MAX 256 /* of a name */
#define KMIP_UIDS_MAX 1024

/* Numbers are KMIP's. */
enum kmip_operation {
	KMIP_REGISTER = 0x03,
	KMIP_LOCATE = 0x08,
	KMIP_GET = 0x0A,
	KMIP_GET_ATTRIBUTES = 0x0B,
	KMIP_ACTIVATE = 0x12,
	KMIP_REVOKE = 0x13,
	KMIP_DESTROY = 0x14,
	KMIP_DISCOVER_VERSIONS = 0x1E
};

enum kmip_state {
	KMIP_PRE_ACTIVE = 1,
	KMIP_ACTIVE = 2,
	KMIP_DEACTIVATED = 3,
	KMIP_COMPROMISED = 4,
	KMIP_DESTROYED = 5,
	KMIP_DESTROYED_COMPROMISED = 6
};

struct kmip_attributes {
	enum kmip_state state; /* 0: not told */
	char name[KMIP_NAME_MAX + 1];
	unsigned names; /* how many it has; name is the one that was wanted, or else the first */
};

/* The question of an operation into w: begin, what belongs into its payload, end. */
struct kmip_question {
	struct ttlv_writer w;
	size_t message, item, payload;
};
void kmip_question_begin(struct kmip_question *q, uint8_t *data, size_t room, unsigned minor, enum kmip_operation op);
/* ERR_USAGE when it did not fit. *len: of the message. */
int kmip_question_end(struct kmip_question *q, size_t *len, struct err *err);
/* What may stand in a payload. */
void kmip_put_versions(struct kmip_question *q);
void kmip_put_uid(struct kmip_question *q, const char *uid);
void kmip_put_wanted(struct kmip_question *q);                   /* Get: in the format that kmip_read_key takes */
void kmip_put_attributes(struct kmip_question *q);               /* Get Attributes: what kmip_attributes holds */
void kmip_put_search(struct kmip_question *q, const char *name); /* Locate: symmetric keys, of that name if not NULL */
void kmip_put_key(struct kmip_question *q, const char *name, const uint8_t key[static KEK_LEN]);
void kmip_put_revocation(struct kmip_question *q); /* it is no longer used */

/*
 * The payload of a success (a structure without children if there is none). ERR_FAILED: no answer to this operation, or
 * one that tells of a failure, with the server's words as detail and os_errno ENOENT where the object is not there;
 * ERR_UNREACHABLE where the server denies it.
 */
int kmip_answer_read(const uint8_t *data, size_t len, enum kmip_operation op, struct ttlv *payload, struct err *err);
/* From payloads; ERR_FAILED when they are not what they must be. */
int kmip_read_versions(const struct ttlv *payload, unsigned *minor,
                       struct err *err); /* the server's first of 1.2 to 1.4 */
int kmip_read_uid(const struct ttlv *payload, char uid[static KMIP_UID_MAX + 1], struct err *err);
int kmip_read_uids(const struct ttlv *payload, char (*uids)[KMIP_UID_MAX + 1], size_t max, size_t *n, struct err *err);
int kmip_read_key(const struct ttlv *payload, const char *uid, uint8_t key[static KEK_LEN], struct err *err);
int kmip_read_attributes(const struct ttlv *payload, const char *wanted, struct kmip_attributes *a, struct err *err);

#endif
