#include "keymgr/kmip.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "walcrypt/secmem.h"

#define STAYED_MS 2000 /* for the first answer on a connection that stayed */

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
	int result;

	k->sound = false;
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
	result = kmip_answer_read(k->buf, total, op, payload, err);
	k->sound = result == 0;
	return result;
}

/* Two conversations with the same identity may share a connection. A file that was replaced is another one. */
static char *
identity_make(const struct http_peer *peer, struct err *err)
{
	const char *const files[] = {peer->ca_file, peer->cert_file, peer->key_file};
	char *text = strdup(peer->host_port);

	for (size_t i = 0; text != NULL && i < sizeof(files) / sizeof(files[0]); i++) {
		char *longer = NULL;
		struct stat st = {0};

		if (files[i] != NULL)
			stat(files[i], &st); /* one that is not there is said when it is used */
		if (asprintf(&longer, "%s\n%s\n%ju %ju %jd %ld", text, files[i] != NULL ? files[i] : "", (uintmax_t)st.st_ino,
		             (uintmax_t)st.st_size, (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec) < 0)
			longer = NULL;
		free(text);
		text = longer;
	}
	if (text == NULL)
		err_nomem(err);
	return text;
}

/* A connection that stays. */
struct stayed {
	struct stayed *next;
	char *identity;
	struct tlslink *link;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct stayed *all_stayed;

static void
stayed_free(struct stayed *s)
{
	tlslink_close(s->link);
	free(s->identity);
	free(s);
}

void
kmip_finish(void)
{
	struct stayed *next;

	pthread_mutex_lock(&lock);
	for (; all_stayed != NULL; all_stayed = next) {
		next = all_stayed->next;
		stayed_free(all_stayed);
	}
	pthread_mutex_unlock(&lock);
}

/* Take one out: nobody else has it then. */
static struct tlslink *
stayed_take(const char *identity)
{
	struct stayed **at = &all_stayed, *s;
	struct tlslink *link = NULL;

	pthread_mutex_lock(&lock);
	while (*at != NULL && strcmp((*at)->identity, identity) != 0)
		at = &(*at)->next;
	if ((s = *at) != NULL) {
		*at = s->next;
		link = s->link;
		s->link = NULL;
		stayed_free(s);
	}
	pthread_mutex_unlock(&lock);
	return link;
}

/* k's connection stays. Without memory it is closed. */
static void
stayed_put(struct kmip *k)
{
	struct stayed *s = calloc(1, sizeof(*s));
	static bool at_exit;

	if (s == NULL)
		return;
	s->identity = k->identity;
	s->link = k->link;
	k->identity = NULL;
	k->link = NULL;
	pthread_mutex_lock(&lock);
	s->next = all_stayed;
	all_stayed = s;
	if (!at_exit)
		at_exit = atexit(kmip_finish) == 0;
	pthread_mutex_unlock(&lock);
}

static int
versions_ask(struct kmip *k, struct err *err)
{
	struct kmip_question q;
	struct ttlv payload;

	k->minor = 2;
	begin(k, &q, KMIP_DISCOVER_VERSIONS);
	kmip_put_versions(&q);
	if (ask(k, &q, KMIP_DISCOVER_VERSIONS, &payload, err) != 0)
		return -1;
	return kmip_read_versions(&payload, &k->minor, err);
}

/* Over a connection that stayed, if there is one and it answers soon: the server may have closed it, a firewall
 * forgotten it. */
static bool
open_again(struct kmip *k)
{
	int64_t deadline_ms = k->peer.deadline_ms, soon_ms = clock_now_ms() + STAYED_MS;
	struct err ignored;

	if ((k->link = stayed_take(k->identity)) == NULL)
		return false;
	if (soon_ms < deadline_ms)
		k->peer.deadline_ms = soon_ms;
	tlslink_peer(k->link, &k->peer);
	if (versions_ask(k, &ignored) != 0) {
		tlslink_close(k->link);
		k->link = NULL;
	}
	k->peer.deadline_ms = deadline_ms;
	return k->link != NULL;
}

int
kmip_open(struct kmip *k, struct err *err)
{
	if ((k->buf = secmem_alloc(KMIP_MESSAGE_MAX, err)) == NULL || (k->identity = identity_make(&k->peer, err)) == NULL)
		return -1;
	if (open_again(k))
		return 0;
	return (k->link = tlslink_open(&k->peer, err)) != NULL ? versions_ask(k, err) : -1;
}

void
kmip_close(struct kmip *k)
{
	if (k->link != NULL && k->sound)
		stayed_put(k);
	tlslink_close(k->link);
	free(k->identity);
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
