/*
 * kmip: a conversation with a KMIP server over one connection inside TLS, in which both show certificates. The version
 * is the first of the server's own that we speak, 1.2 to 1.4. Blocks until the deadline of the whole.
 *
 * A connection stays for the next conversation with the same server by the same certificates (file and content), until
 * kmip_finish or the end of the program. Each begins with the question for versions; when a connection that stayed does
 * not answer it, a new one is made. Thread-safe: two at a time have two connections.
 *
 * Errors: those of common/tlslink.h and keymgr/kmip_message.h; after one of the connection's there is no going on.
 */
#ifndef KEYMGR_KMIP_H
#define KEYMGR_KMIP_H

#include <stdbool.h>

#include "common/tlslink.h"
#include "keymgr/kmip_message.h"

#define KMIP_PORT "5696"
#define KMIP_MESSAGE_MAX 65536

struct kmip {
	struct http_peer peer; /* the caller's, filled in */
	struct tlslink *link;
	uint8_t *buf; /* secure memory: the question, then the answer */
	unsigned minor;
	bool sound;     /* the last question has its answer: the connection can stay */
	char *identity; /* of server and certificates */
};

/* Agree on a version with k->peer, over a connection that stayed or a new one. kmip_close also after a failure. */
int kmip_open(struct kmip *k, struct err *err);
void kmip_close(struct kmip *k);
/* Close the connections that stayed. */
void kmip_finish(void);

/* Identifiers of the symmetric keys of that name (NULL: of all). */
int kmip_locate(struct kmip *k, const char *name, char (*uids)[KMIP_UID_MAX + 1], size_t max, size_t *n,
                struct err *err);
int kmip_attributes(struct kmip *k, const char *uid, const char *wanted, struct kmip_attributes *a, struct err *err);
int kmip_get(struct kmip *k, const char *uid, uint8_t key[static KEK_LEN], struct err *err);
/* A new object with this key, not active yet. */
int kmip_register(struct kmip *k, const char *name, const uint8_t key[static KEK_LEN],
                  char uid[static KMIP_UID_MAX + 1], struct err *err);
int kmip_activate(struct kmip *k, const char *uid, struct err *err);
int kmip_revoke(struct kmip *k, const char *uid, struct err *err);
int kmip_destroy(struct kmip *k, const char *uid, struct err *err);

#endif
