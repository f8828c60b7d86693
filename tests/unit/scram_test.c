/* SCRAM as a server: the exchange of RFC 7677, every way to break one, channel binding, and what a mock gives away. */
#include "replication/scram.h"

#include <stdlib.h>

#include "replication/message.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"
#include "walcrypt/base64.h"
#include "walcrypt/digest.h"

/* RFC 7677 section 3: user "user", password "pencil". The keys were computed from it with Python's hashlib. */
#define RFC_VERIFIER                                                                                                   \
	"SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"                        \
	"wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
#define RFC_NONCE "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
#define RFC_FIRST "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
#define RFC_FINAL "c=biws,r=rOprNGfwEbeRWgbNEkqO" RFC_NONCE ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
#define RFC_SIGNATURE "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
#define OUR_NONCE "ours"
#define BINDING_LEN 32

static struct verifier rfc, known;
static uint8_t client_key[32], binding[BINDING_LEN];

struct run {
	struct scram *s;
	struct buffer out;
	struct err err;
	char text[4096]; /* of the last answer */
	unsigned code;
};

static void
begin(struct run *r, const struct scram_conf *conf)
{
	memset(r, 0, sizeof(*r));
	buffer_init(&r->out, 1 << 16);
	r->s = scram_new(conf, &r->err);
}

static void
end(struct run *r)
{
	scram_free(r->s);
	buffer_free(&r->out);
}

/* In an allocation of exactly its size. */
static int
push_bytes(struct run *r, const void *data, size_t len)
{
	uint8_t *exact = malloc(len > 0 ? len : 1);
	int rc;

	memset(&r->err, 0, sizeof(r->err));
	if (exact == NULL)
		return err_nomem(&r->err);
	memcpy(exact, data, len);
	rc = scram_push(r->s, exact, len, &r->out, &r->err);
	free(exact);
	if (buffer_len(&r->out) >= 9) {
		r->code = get_u32(buffer_data(&r->out) + 5);
		snprintf(r->text, sizeof(r->text), "%.*s", (int)buffer_len(&r->out) - 9, buffer_data(&r->out) + 9);
	}
	buffer_consume(&r->out, buffer_len(&r->out));
	return rc;
}

static int
push(struct run *r, const char *text)
{
	return push_bytes(r, text, strlen(text));
}

static int
push_first(struct run *r, const char *mechanism, const char *text)
{
	uint8_t body[4096];
	size_t n = strlen(mechanism) + 1, len = strlen(text);

	memcpy(body, mechanism, n);
	body[n] = body[n + 1] = 0;
	body[n + 2] = (uint8_t)(len >> 8);
	body[n + 3] = (uint8_t)len;
	memcpy(body + n + 4, text, len);
	return push_bytes(r, body, n + 4 + len);
}

/* A client's last message: its beginning, and the proof that belongs to it under client_key. */
static void
with_proof(const struct run *r, const char *first_bare, const char *without, char *out, size_t max)
{
	char message[4096], encoded[64];
	uint8_t signature[32];
	struct err err = {0};
	int n = snprintf(message, sizeof(message), "%s,%s,%s", first_bare, r->text, without);

	if (hmac_sha256(known.stored_key, 32, message, (size_t)n, signature, &err) != 0)
		exit(1);
	for (int i = 0; i < 32; i++)
		signature[i] ^= client_key[i];
	base64_encode(signature, 32, encoded);
	snprintf(out, max, "%s,p=%s", without, encoded);
}

static void
vectors(void)
{
	struct scram_conf conf = {.user = "user", .verifier = &rfc, .nonce = RFC_NONCE};
	struct run r;

	begin(&r, &conf);
	is_int(push_first(&r, SCRAM_PLAIN, RFC_FIRST), 0, "RFC 7677: client-first");
	is_int(r.code, 11, "AuthenticationSASLContinue");
	is_str(r.text, "r=rOprNGfwEbeRWgbNEkqO" RFC_NONCE ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "server-first");
	is_int(push(&r, RFC_FINAL), 1, "client-final");
	is_int(r.code, 12, "AuthenticationSASLFinal");
	is_str(r.text, RFC_SIGNATURE, "server-final");
	is_int(push(&r, RFC_FINAL), -1, "and no more after it");
	end(&r);

	/* every single character of the last message counts */
	for (size_t i = 0; i < strlen(RFC_FINAL); i++) {
		char text[] = RFC_FINAL;

		text[i] = text[i] == 'A' ? 'B' : 'A';
		begin(&r, &conf);
		push_first(&r, SCRAM_PLAIN, RFC_FIRST);
		if (push(&r, text) != -1)
			ok(false, "character %zu changed: refused", i);
		end(&r);
		text[i] = '\0';
		begin(&r, &conf);
		push_first(&r, SCRAM_PLAIN, RFC_FIRST);
		if (push(&r, text) != -1)
			ok(false, "cut to %zu characters: refused", i);
		end(&r);
	}
	ok(true, "%zu changed and %zu truncated last messages are refused", strlen(RFC_FINAL), strlen(RFC_FINAL));

	begin(&r, &conf);
	is_int(push_bytes(&r, SCRAM_PLAIN "\0\xff\xff\xff\xff", sizeof(SCRAM_PLAIN) + 4), 0, "no initial response");
	is_int(r.code, 11, "is asked for");
	is_str(r.text, "", "with nothing");
	is_int(push(&r, RFC_FIRST), 0, "then comes client-first");
	is_int(push(&r, RFC_FINAL), 1, "and the rest as before");
	end(&r);

	conf.doomed = true;
	begin(&r, &conf);
	push_first(&r, SCRAM_PLAIN, RFC_FIRST);
	is_int(push(&r, RFC_FINAL), -1, "the right proof of a user who may not come in");
	is_str(r.err.sqlstate, "28P01", "is a wrong password");
	is_err(&r.err, ERR_REFUSED, "password authentication failed for user \"user\"", "in PostgreSQL's words");
	end(&r);
}

static void
mechanisms(void)
{
	struct buffer b;
	struct err err = {0};

	buffer_init(&b, 1000);
	ok(scram_offer(&b, true, &err) == 0 && buffer_len(&b) == 9 + 19 + 14 + 1, "the offer over TLS");
	is_mem(buffer_data(&b) + 9, "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0", 34, "has the better one first");
	buffer_consume(&b, buffer_len(&b));
	ok(scram_offer(&b, false, &err) == 0, "the offer without TLS");
	is_mem(buffer_data(&b) + 9, "SCRAM-SHA-256\0", 15, "has one");
	buffer_free(&b);
}

/* What is refused, at which message and how. NULL final: it is the first that is refused. */
static void
refusals(void)
{
	static const struct {
		const char *what, *mechanism, *first, *final, *sqlstate;
		bool tls;
	} rows[] = {
	    {"an unknown mechanism", "PLAIN", "n,,n=,r=x", NULL, "08P01", true},
	    {"no mechanism", "", "n,,n=,r=x", NULL, "08P01", true},
	    {"PLUS that was not offered", SCRAM_PLUS, "p=tls-server-end-point,,n=,r=x", NULL, "08P01", false},
	    {"PLUS without binding", SCRAM_PLUS, "n,,n=,r=x", NULL, "08P01", true},
	    {"PLUS with y", SCRAM_PLUS, "y,,n=,r=x", NULL, "08P01", true},
	    {"a downgrade: y although PLUS was offered", SCRAM_PLAIN, "y,,n=,r=x", NULL, "28000", true},
	    {"binding without PLUS", SCRAM_PLAIN, "p=tls-server-end-point,,n=,r=x", NULL, "08P01", true},
	    {"tls-unique", SCRAM_PLUS, "p=tls-unique,,n=,r=x", NULL, "28000", true},
	    {"tls-server-end-pointx", SCRAM_PLUS, "p=tls-server-end-pointx,,n=,r=x", NULL, "28000", true},
	    {"a binding without name", SCRAM_PLUS, "p=,,n=,r=x", NULL, "28000", true},
	    {"an empty message", SCRAM_PLAIN, "", NULL, "08P01", false},
	    {"no flag", SCRAM_PLAIN, ",,n=,r=x", NULL, "08P01", false},
	    {"n without a comma", SCRAM_PLAIN, "n", NULL, "08P01", false},
	    {"n with one comma", SCRAM_PLAIN, "n,", NULL, "08P01", false},
	    {"n and text", SCRAM_PLAIN, "nx,n=,r=x", NULL, "08P01", false},
	    {"an authorization identity", SCRAM_PLAIN, "n,a=root,n=,r=x", NULL, "08P01", false},
	    {"a mandatory extension", SCRAM_PLAIN, "n,,m=x,n=,r=x", NULL, "08P01", false},
	    {"no user", SCRAM_PLAIN, "n,,r=x", NULL, "08P01", false},
	    {"no nonce", SCRAM_PLAIN, "n,,n=", NULL, "08P01", false},
	    {"an empty nonce", SCRAM_PLAIN, "n,,n=,r=", NULL, "08P01", false},
	    {"a nonce with a blank", SCRAM_PLAIN, "n,,n=,r=a b", NULL, "08P01", false},
	    {"a nonce beyond ASCII", SCRAM_PLAIN, "n,,n=,r=\xc3\xa4", NULL, "08P01", false},
	    {"the client's nonce alone", SCRAM_PLAIN, "n,,n=,r=x", "c=biws,r=x", "08P01", false},
	    {"our nonce alone", SCRAM_PLAIN, "n,,n=,r=x", "c=biws,r=" OUR_NONCE, "08P01", false},
	    {"a nonce of before", SCRAM_PLAIN, "n,,n=,r=x", "c=biws,r=xother", "08P01", false},
	    {"a nonce and more", SCRAM_PLAIN, "n,,n=,r=x", "c=biws,r=x" OUR_NONCE "x", "08P01", false},
	    {"no nonce at last", SCRAM_PLAIN, "n,,n=,r=x", "c=biws,s=x", "08P01", false},
	    {"no binding at last", SCRAM_PLAIN, "n,,n=,r=x", "r=x" OUR_NONCE, "08P01", false},
	    {"y in the last, n in the first", SCRAM_PLAIN, "n,,n=,r=x", "c=eSws,r=x" OUR_NONCE, "08P01", false},
	    {"the header alone, no hash", SCRAM_PLUS, "p=tls-server-end-point,,n=,r=x",
	     "c=cD10bHMtc2VydmVyLWVuZC1wb2ludCws,r=x" OUR_NONCE, "28000", true},
	    {"n in the last, p in the first", SCRAM_PLUS, "p=tls-server-end-point,,n=,r=x", "c=biws,r=x" OUR_NONCE, "28000",
	     true},
	    {"an extension that is none", SCRAM_PLAIN, "n,,n=,r=x", "c=biws,r=x" OUR_NONCE ",xy", "08P01", false},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct scram_conf conf = {.user = "u", .verifier = &known, .nonce = OUR_NONCE};
		struct run r;
		char text[1000];

		if (rows[i].tls) {
			conf.binding = binding;
			conf.binding_len = sizeof(binding);
		}
		begin(&r, &conf);
		if (rows[i].final == NULL)
			is_int(push_first(&r, rows[i].mechanism, rows[i].first), -1, "%s", rows[i].what);
		else if (is_int(push_first(&r, rows[i].mechanism, rows[i].first), 0, "%s: first", rows[i].what)) {
			/* even when the proof is right for what was sent */
			with_proof(&r, strstr(rows[i].first, "n="), rows[i].final, text, sizeof(text));
			is_int(push(&r, text), -1, "%s", rows[i].what);
		}
		is_str(r.err.sqlstate, rows[i].sqlstate, "%s: sqlstate", rows[i].what);
		end(&r);
	}
}

static void
lengths(void)
{
	struct scram_conf conf = {.user = "u", .verifier = &known, .nonce = OUR_NONCE};
	char text[MESSAGE_AUTH_MAX + 100];
	struct run r;

	for (size_t cut = 0; cut < sizeof(SCRAM_PLAIN) + 4; cut++) {
		begin(&r, &conf);
		if (push_bytes(&r, SCRAM_PLAIN "\0\0\0\0\4n,,n", cut) != -1)
			ok(false, "an initial response of %zu bytes is refused", cut);
		end(&r);
	}
	begin(&r, &conf);
	is_int(push_bytes(&r, SCRAM_PLAIN "\0\0\0\0\011n,,n=,r=x!", sizeof(SCRAM_PLAIN) + 14), -1,
	       "more than the length says");
	end(&r);
	begin(&r, &conf);
	is_int(push_bytes(&r, SCRAM_PLAIN "\0\0\0\0\012n,,n=,r=\0x", sizeof(SCRAM_PLAIN) + 14), -1, "a zero byte inside");
	end(&r);
	memset(text, 'a', sizeof(text));
	memcpy(text, SCRAM_PLAIN "\0\0\0\3\0n,,n=,r=", sizeof(SCRAM_PLAIN) + 12);
	begin(&r, &conf);
	is_int(push_bytes(&r, text, sizeof(SCRAM_PLAIN) + 4 + 768), 0, "a nonce of 760 bytes");
	end(&r);
	begin(&r, &conf);
	is_int(push_bytes(&r, text, sizeof(text)), -1, "a message of 1100 bytes");
	end(&r);
}

static void
bindings(void)
{
	struct scram_conf conf = {
	    .user = "u", .verifier = &known, .nonce = OUR_NONCE, .binding = binding, .binding_len = sizeof(binding)};
	uint8_t data[24 + BINDING_LEN] = "p=tls-server-end-point,,";
	char encoded[BASE64_LEN(sizeof(data)) + 1], without[400], text[600];
	struct run r;

	for (int wrong = 0; wrong < 2; wrong++) {
		memcpy(data + 24, binding, sizeof(binding));
		data[sizeof(data) - 1] ^= (uint8_t)wrong;
		base64_encode(data, sizeof(data), encoded);
		snprintf(without, sizeof(without), "c=%s,r=x" OUR_NONCE, encoded);
		begin(&r, &conf);
		push_first(&r, SCRAM_PLUS, "p=tls-server-end-point,,n=,r=x");
		with_proof(&r, "n=,r=x", without, text, sizeof(text));
		is_int(push(&r, text), wrong ? -1 : 1, "%s", wrong ? "another certificate's hash" : "channel binding");
		if (wrong)
			is_err(&r.err, ERR_REFUSED, "channel binding check failed", "is refused by name");
		end(&r);
	}
	/* without the wish to bind, over TLS: allowed, as in PostgreSQL */
	begin(&r, &conf);
	push_first(&r, SCRAM_PLAIN, "n,,n=,r=x");
	with_proof(&r, "n=,r=x", "c=biws,r=x" OUR_NONCE, text, sizeof(text));
	is_int(push(&r, text), 1, "no binding over TLS");
	end(&r);
	conf.binding = NULL;
	begin(&r, &conf);
	push_first(&r, SCRAM_PLAIN, "y,,n=,r=x");
	with_proof(&r, "n=,r=x", "c=eSws,r=x" OUR_NONCE ",e=xt", text, sizeof(text));
	is_int(push(&r, text), 1, "y where nothing was offered, and an extension");
	end(&r);
}

/* Two exchanges never have one nonce. */
static void
nonces(void)
{
	struct scram_conf conf = {.user = "u", .verifier = &known};
	char before[4096] = "";
	struct run r;

	for (int i = 0; i < 2; i++) {
		begin(&r, &conf);
		push_first(&r, SCRAM_PLAIN, "n,,n=,r=x");
		is_int(strcspn(r.text, ","), 2 + 1 + 24, "18 random bytes");
		ok(strcmp(r.text, before) != 0, "the server's nonce is new");
		memcpy(before, r.text, sizeof(before));
		end(&r);
	}
	/* the answer of one exchange in the next */
	begin(&r, &conf);
	push_first(&r, SCRAM_PLAIN, "n,,n=,r=x");
	{
		char without[400], text[600];

		snprintf(without, sizeof(without), "c=biws,%.*s", (int)strcspn(r.text, ","), r.text);
		with_proof(&r, "n=,r=x", without, text, sizeof(text));
		end(&r);
		begin(&r, &conf);
		push_first(&r, SCRAM_PLAIN, "n,,n=,r=x");
		is_int(push(&r, text), -1, "a replayed answer is refused");
		is_str(r.err.sqlstate, "08P01", "for its nonce");
	}
	end(&r);
}

static int
one_exchange(void *arg)
{
	struct scram_conf conf = {.user = "user", .verifier = &rfc, .nonce = RFC_NONCE};
	struct run r;
	int rc = -1;

	(void)arg;
	begin(&r, &conf);
	if (r.s != NULL && push_first(&r, SCRAM_PLAIN, RFC_FIRST) == 0 && push(&r, RFC_FINAL) == 1)
		rc = 0;
	else if (r.err.class == ERR_NONE)
		rc = 1;
	end(&r);
	return rc;
}

int
main(void)
{
	uint8_t hash[DIGEST_MAX_LEN];
	struct digest *d;
	struct err err = {0};

	for (size_t i = 0; i < sizeof(client_key); i++)
		client_key[i] = (uint8_t)(i * 7 + 1), binding[i] = (uint8_t)(i + 100);
	known.iterations = 4096;
	known.salt_len = 16;
	memset(known.server_key, 'S', sizeof(known.server_key));
	if (verifier_parse(RFC_VERIFIER, &rfc, &err) != 0 || (d = digest_new(DIGEST_SHA256, &err)) == NULL ||
	    digest_update(d, client_key, 32, &err) != 0 || digest_final(d, hash, &err) != 32)
		return 1;
	memcpy(known.stored_key, hash, 32);
	digest_free(d);
	vectors();
	mechanisms();
	refusals();
	lengths();
	bindings();
	nonces();
	ok(failmalloc_each(one_exchange, NULL) >= 5, "each failing allocation ends it cleanly");
	return tap_done();
}
