#include "replication/scram.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/message.h"
#include "walcrypt/base64.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

#define TYPE "tls-server-end-point"
#define SASL 10u
#define SASL_CONTINUE 11u
#define SASL_FINAL 12u
/* No message is longer than the framing allows, so these cannot overflow. */
#define TEXT_MAX (2 * MESSAGE_AUTH_MAX)

enum scram_state { SCRAM_MECHANISM, SCRAM_FIRST, SCRAM_FINAL, SCRAM_OVER };

struct scram {
	enum scram_state state;
	char user[64];
	struct verifier verifier;
	bool doomed, plus;
	uint8_t binding[SCRAM_BINDING_MAX];
	size_t binding_len;                /* 0: PLUS was not offered */
	char *client_first, *server_first; /* client_first: without its gs2 header */
	char flag;                         /* n, y or p of the gs2 header */
	char nonce[2 * BASE64_LEN(SCRAM_NONCE_LEN)];
};

int
scram_offer(struct buffer *out, bool plus, struct err *err)
{
	size_t begun = message_begin(out, 'R');

	buffer_put_u32(out, SASL);
	if (plus)
		buffer_put_str(out, SCRAM_PLUS);
	buffer_put_str(out, SCRAM_PLAIN);
	buffer_put_u8(out, 0);
	return message_end(out, begun, err);
}

struct scram *
scram_new(const struct scram_conf *conf, struct err *err)
{
	struct scram *s = calloc(1, sizeof(*s));
	uint8_t bytes[SCRAM_NONCE_LEN];

	if (s == NULL) {
		err_nomem(err);
		return NULL;
	}
	s->verifier = *conf->verifier;
	s->doomed = conf->doomed;
	strncpy(s->user, conf->user, sizeof(s->user) - 1);
	if (conf->binding != NULL && conf->binding_len <= sizeof(s->binding)) {
		memcpy(s->binding, conf->binding, conf->binding_len);
		s->binding_len = conf->binding_len;
	}
	if (conf->nonce != NULL)
		strncpy(s->nonce, conf->nonce, sizeof(s->nonce) - 1);
	else if (random_nonce(bytes, sizeof(bytes), err) != 0) {
		scram_free(s);
		return NULL;
	} else
		base64_encode(bytes, sizeof(bytes), s->nonce);
	return s;
}

void
scram_free(struct scram *s)
{
	if (s == NULL)
		return;
	free(s->client_first);
	free(s->server_first);
	secmem_wipe(s, sizeof(*s));
	free(s);
}

static int
malformed(struct err *err, const char *detail)
{
	err_set(err, ERR_FAILED, "malformed SCRAM message");
	err_detail(err, "%s", detail);
	return err_sqlstate(err, "08P01");
}

static int
no_binding(struct err *err, const char *detail)
{
	err_set(err, ERR_REFUSED, "SCRAM channel binding negotiation error");
	err_detail(err, "%s", detail);
	return err_sqlstate(err, "28000");
}

/* The value of the attribute "name=" at *p; *p goes behind it and its comma. NULL when something else stands there. */
static const char *
attribute(const char **p, char name, size_t *len)
{
	const char *value = *p + 2;

	if ((*p)[0] != name || (*p)[1] != '=')
		return NULL;
	*len = strcspn(value, ",");
	*p = value + *len + (value[*len] == ',');
	return value;
}

/* The gs2 header; *p goes behind it. */
static int
header(struct scram *s, const char **p, struct err *err)
{
	size_t len = 0;
	const char *type;

	s->flag = **p;
	switch (s->flag) {
	case 'n':
	case 'y':
		if (s->plus)
			return malformed(err, "The client selected SCRAM-SHA-256-PLUS, but its message has no channel binding.");
		/* 'y': it could, and has been told that we cannot. We can: somebody between us took PLUS off the list. */
		if (s->flag == 'y' && s->binding_len > 0)
			return no_binding(err, "The client supports SCRAM channel binding but thinks the server does not. However, "
			                       "this server does support channel binding.");
		if ((*p)[1] != ',')
			return malformed(err, "A comma is missing after the channel binding flag.");
		*p += 2;
		break;
	case 'p':
		if (!s->plus)
			return malformed(err, "The client selected SCRAM-SHA-256 without channel binding, but its message has it.");
		if ((type = attribute(p, 'p', &len)) == NULL || len != strlen(TYPE) || memcmp(type, TYPE, len) != 0)
			return no_binding(err, "The only channel binding type is \"" TYPE "\".");
		break;
	default:
		return malformed(err, "It has no channel binding flag.");
	}
	if (**p == 'a')
		return malformed(err, "An authorization identity is not supported.");
	if (**p != ',')
		return malformed(err, "The header has no end.");
	++*p;
	return 0;
}

static bool
printable(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (text[i] < 0x21 || text[i] > 0x7E || text[i] == ',')
			return false;
	return len > 0;
}

/* An Authentication message; text may be empty. */
static int
answer(struct buffer *out, uint32_t code, const char *text, size_t len, struct err *err)
{
	size_t begun = message_begin(out, 'R');

	buffer_put_u32(out, code);
	buffer_put(out, text, len);
	return message_end(out, begun, err);
}

static int
first(struct scram *s, const char *text, struct buffer *out, struct err *err)
{
	char salt[BASE64_LEN(VERIFIER_SALT_MAX) + 1], *made = NULL;
	const char *p = text, *bare, *nonce;
	size_t len, user_len;
	int n;

	if (header(s, &p, err) != 0)
		return -1;
	bare = p;
	if (*p == 'm')
		return malformed(err, "An extension that the client calls mandatory is not supported.");
	if (attribute(&p, 'n', &user_len) == NULL)
		return malformed(err, "It has no user name.");
	if ((nonce = attribute(&p, 'r', &len)) == NULL || !printable(nonce, len))
		return malformed(err, "It has no nonce, or one of characters that are not printable.");
	base64_encode(s->verifier.salt, s->verifier.salt_len, salt);
	if ((s->client_first = strdup(bare)) == NULL || (made = malloc(TEXT_MAX)) == NULL) {
		free(made);
		return err_nomem(err);
	}
	n = snprintf(made, TEXT_MAX, "r=%.*s%s,s=%s,i=%u", (int)len, nonce, s->nonce, salt, s->verifier.iterations);
	s->server_first = strdup(made);
	free(made);
	if (s->server_first == NULL)
		return err_nomem(err);
	s->state = SCRAM_FINAL;
	return answer(out, SASL_CONTINUE, s->server_first, (size_t)n, err);
}

/* c=: the gs2 header again, and the channel binding data behind it. */
static int
check_binding(const struct scram *s, const char *text, size_t len, struct err *err)
{
	uint8_t want[sizeof("p=" TYPE ",,") + SCRAM_BINDING_MAX];
	char encoded[BASE64_LEN(sizeof(want)) + 1];
	struct buffer b;
	size_t n;

	buffer_init(&b, sizeof(want));
	buffer_put_text(&b, s->flag == 'p' ? "p=" TYPE ",," : s->flag == 'y' ? "y,," : "n,,");
	if (s->flag == 'p')
		buffer_put(&b, s->binding, s->binding_len);
	if (buffer_check(&b, err) != 0) {
		buffer_free(&b);
		return -1;
	}
	n = buffer_len(&b);
	memcpy(want, buffer_data(&b), n);
	buffer_free(&b);
	base64_encode(want, n, encoded);
	if (len == strlen(encoded) && secmem_equal(text, encoded, len))
		return 0;
	if (s->flag != 'p')
		return malformed(err, "Its channel binding attribute is not that of its first message.");
	err_set(err, ERR_REFUSED, "SCRAM channel binding check failed");
	err_detail(err, "The client has been shown another server certificate.");
	return err_sqlstate(err, "28000");
}

/* r=: the client's nonce and ours, as we put them together. */
static bool
same_nonce(const struct scram *s, const char *text, size_t len)
{
	size_t want = strcspn(s->server_first, ",") - 2;

	return len == want && memcmp(text, s->server_first + 2, len) == 0;
}

/* AuthMessage; NULL with err set. */
static char *
auth_message(const struct scram *s, const char *final, size_t without_proof, size_t *len, struct err *err)
{
	struct buffer b;
	char *made = NULL;

	buffer_init(&b, 3 * TEXT_MAX);
	buffer_put_text(&b, s->client_first);
	buffer_put_u8(&b, ',');
	buffer_put_text(&b, s->server_first);
	buffer_put_u8(&b, ',');
	buffer_put(&b, final, without_proof);
	if (buffer_check(&b, err) == 0) {
		*len = buffer_len(&b);
		if ((made = malloc(*len)) == NULL)
			err_nomem(err);
		else
			memcpy(made, buffer_data(&b), *len);
	}
	buffer_free(&b);
	return made;
}

static int
prove(struct scram *s, const char *text, size_t without_proof, const uint8_t *proof, struct buffer *out,
      struct err *err)
{
	uint8_t signature[VERIFIER_KEY_LEN];
	char encoded[2 + BASE64_LEN(sizeof(signature)) + 1] = "v=";
	size_t len;
	char *message = auth_message(s, text, without_proof, &len, err);
	int right;

	if (message == NULL)
		return -1;
	right = verifier_check(&s->verifier, message, len, proof, err);
	if (right >= 0 && verifier_sign(&s->verifier, message, len, signature, err) != 0)
		right = -1;
	free(message);
	if (right < 0)
		return -1;
	if (!right || s->doomed) {
		err_set(err, ERR_REFUSED, "password authentication failed for user \"%s\"", s->user);
		return err_sqlstate(err, "28P01");
	}
	base64_encode(signature, sizeof(signature), encoded + 2);
	return answer(out, SASL_FINAL, encoded, strlen(encoded), err) == 0 ? 1 : -1;
}

static int
final(struct scram *s, const char *text, struct buffer *out, struct err *err)
{
	uint8_t proof[VERIFIER_KEY_LEN];
	const char *p = text, *before, *value;
	size_t len;

	s->state = SCRAM_OVER;
	if ((value = attribute(&p, 'c', &len)) == NULL)
		return malformed(err, "It has no channel binding attribute.");
	if (check_binding(s, value, len, err) != 0)
		return -1;
	if ((value = attribute(&p, 'r', &len)) == NULL || !same_nonce(s, value, len))
		return malformed(err, "Its nonce is not that of this exchange.");
	/* extensions that we do not know are allowed here; the proof is the last attribute */
	for (before = p; *p != 'p' && *p != '\0'; before = p)
		if (attribute(&p, *p, &len) == NULL)
			return malformed(err, "It has something that is no attribute.");
	if ((value = attribute(&p, 'p', &len)) == NULL)
		return malformed(err, "It has no proof.");
	if (*p != '\0' || value[len] != '\0' || base64_decode(value, len, proof, sizeof(proof)) != (int)sizeof(proof))
		return malformed(err, "Its proof is not 32 bytes in base64 at the end.");
	return prove(s, text, (size_t)(before - text) - 1, proof, out, err);
}

/* SASLInitialResponse: mechanism, and the first message or -1 when the client waits to be asked for it. */
static int
mechanism(struct scram *s, const char **text, size_t *len, bool *none, struct err *err)
{
	size_t name = strnlen(*text, *len);
	const uint8_t *p = (const uint8_t *)*text + name + 1;

	if (name + 1 + 4 > *len)
		return malformed(err, "The choice of a mechanism is cut short.");
	s->plus = strcmp(*text, SCRAM_PLUS) == 0;
	if ((s->plus && s->binding_len == 0) || (!s->plus && strcmp(*text, SCRAM_PLAIN) != 0)) {
		err_set(err, ERR_REFUSED, "client selected an invalid SASL authentication mechanism");
		return err_sqlstate(err, "08P01");
	}
	s->state = SCRAM_FIRST;
	*none = get_u32(p) == UINT32_MAX;
	*len -= name + 1 + 4;
	*text += name + 1 + 4;
	if (*none ? *len != 0 : *len != get_u32(p))
		return malformed(err, "Its length is not what it says.");
	return 0;
}

int
scram_push(struct scram *s, const uint8_t *body, size_t len, struct buffer *out, struct err *err)
{
	char text[MESSAGE_AUTH_MAX + 1];
	const char *p = text;
	bool none = false;

	if (len > MESSAGE_AUTH_MAX)
		return malformed(err, "It is too long.");
	memcpy(text, body, len);
	text[len] = '\0';
	if (s->state == SCRAM_MECHANISM) {
		if (mechanism(s, &p, &len, &none, err) != 0)
			return -1;
		if (none)
			return answer(out, SASL_CONTINUE, "", 0, err);
	}
	if (len == 0 || strlen(p) != len)
		return malformed(err, "It is empty, or has a zero byte in it.");
	switch (s->state) {
	case SCRAM_FIRST:
		return first(s, p, out, err);
	case SCRAM_FINAL:
		return final(s, p, out, err);
	default:
		return malformed(err, "The exchange is over.");
	}
}
