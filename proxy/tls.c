#include "proxy/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "proxy/access.h"
#include "walcrypt/secmem.h"

struct tls {
	SSL_CTX *ctx;
	uint8_t binding[EVP_MAX_MD_SIZE];
	size_t binding_len; /* 0: none */
};

/* ALPN as it goes over the wire: length and name. */
static const unsigned char alpn[] = "\012postgresql";
#define ALPN_LEN (sizeof(alpn) - 1)

void
tls_reason(SSL *ssl, char *out, size_t len)
{
	unsigned long code = ERR_peek_last_error();
	long verified = ssl != NULL ? SSL_get_verify_result(ssl) : X509_V_OK;
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

	snprintf(out, len, "%s%s%s", reason != NULL ? reason : "the connection was cut", verified != X509_V_OK ? ": " : "",
	         verified != X509_V_OK ? X509_verify_cert_error_string(verified) : "");
	ERR_clear_error();
}

static int
fail(struct err *err, const char *what, const char *path)
{
	char reason[128];

	tls_reason(NULL, reason, sizeof(reason));
	return path != NULL ? err_set(err, ERR_USAGE, "%s \"%s\": %s", what, path, reason)
	                    : err_set(err, ERR_USAGE, "%s: %s", what, reason);
}

/* A key without its passphrase is no use to a server that restarts by itself. */
static int
no_passphrase(char *buf, int size, int writing, void *arg)
{
	(void)buf;
	(void)size;
	(void)writing;
	(void)arg;
	return -1;
}

static int
load_key(SSL_CTX *ctx, const char *path, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = -1;
	FILE *f = NULL;
	EVP_PKEY *key = NULL;

	if (fd < 0)
		return err_os(err, errno, "could not open key file \"%s\"", path);
	if (access_check_file(fd, "key file", path, err) != 0)
		goto out;
	if ((f = fdopen(fd, "r")) == NULL) {
		err_os(err, errno, "could not read key file \"%s\"", path);
		goto out;
	}
	fd = -1;
	setvbuf(f, NULL, _IONBF, 0);
	secmem_enter();
	key = PEM_read_PrivateKey(f, NULL, no_passphrase, NULL);
	secmem_leave();
	if (key == NULL) {
		fail(err, "could not read a key from", path);
		err_hint(err, "It is a private key in PEM format without a passphrase.");
	} else if (SSL_CTX_use_PrivateKey(ctx, key) != 1 || SSL_CTX_check_private_key(ctx) != 1)
		fail(err, "the certificate does not belong to key file", path);
	else
		rc = 0;
out:
	EVP_PKEY_free(key);
	if (f != NULL)
		fclose(f);
	if (fd >= 0)
		close(fd);
	return rc;
}

static int
load_certificate(struct tls *t, const char *path, struct err *err)
{
	const X509 *cert;
	const EVP_MD *md;
	int digest = NID_undef, cmp;
	unsigned n = 0;

	if (SSL_CTX_use_certificate_chain_file(t->ctx, path) != 1)
		return fail(err, "could not read a certificate from", path);
	cert = SSL_CTX_get0_certificate(t->ctx);
	if ((cmp = X509_cmp_current_time(X509_get0_notAfter(cert))) < 0)
		log_warning("the certificate in \"%s\" has expired", path);
	else if (cmp > 0 && X509_cmp_current_time(X509_get0_notBefore(cert)) > 0)
		log_warning("the certificate in \"%s\" is not valid yet", path);
	/* RFC 5929, 4.1: the hash that the certificate's signature uses, but SHA-256 for MD5 and SHA-1; one that names
	 * none, as EdDSA's, has no such binding, and PLUS can't be offered */
	if (X509_get_signature_info((X509 *)(uintptr_t)cert, &digest, NULL, NULL, NULL) != 1)
		digest = NID_undef;
	if (digest == NID_md5 || digest == NID_sha1)
		digest = NID_sha256;
	md = digest != NID_undef ? EVP_get_digestbynid(digest) : NULL;
	if (md != NULL && X509_digest(cert, md, t->binding, &n) == 1)
		t->binding_len = n;
	else
		log_info("the signature of the certificate in \"%s\" has no hash of its own: no channel binding", path);
	ERR_clear_error();
	return 0;
}

static int
load_authorities(SSL_CTX *ctx, const struct settings *s, struct err *err)
{
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	STACK_OF(X509_NAME) * names;

	if (SSL_CTX_load_verify_file(ctx, s->client_tls_ca_file) != 1)
		return fail(err, "could not read authorities from", s->client_tls_ca_file);
	if ((names = SSL_load_client_CA_file(s->client_tls_ca_file)) == NULL)
		return fail(err, "could not read authorities from", s->client_tls_ca_file);
	SSL_CTX_set_client_CA_list(ctx, names);
	if (s->client_tls_crl_file != NULL) {
		if (X509_STORE_load_file(store, s->client_tls_crl_file) != 1)
			return fail(err, "could not read revocation lists from", s->client_tls_crl_file);
		X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
	}
	/* who has none is told why by the authentication, not by an alert; who has a bad one gets no further */
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_CLIENT_ONCE, NULL);
	return 0;
}

static bool
has(char *const *list, const char *word)
{
	for (; list != NULL && *list != NULL; list++)
		if (strcmp(*list, word) == 0)
			return true;
	return false;
}

static int
choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned in_len,
            void *arg)
{
	(void)ssl;
	(void)arg;
	for (unsigned at = 0; at < in_len; at += in[at] + 1u)
		if (in_len - at >= ALPN_LEN && memcmp(in + at, alpn, ALPN_LEN) == 0) {
			*out = alpn + 1;
			*out_len = ALPN_LEN - 1;
			return SSL_TLSEXT_ERR_OK;
		}
	/* a client of another protocol: it must not take us for its server */
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int
set_rules(SSL_CTX *ctx, const struct settings *s, struct err *err)
{
	bool all = has(s->client_tls_protocols, "secure");
	bool v12 = all || has(s->client_tls_protocols, "tlsv1.2"), v13 = all || has(s->client_tls_protocols, "tlsv1.3");

	SSL_CTX_set_min_proto_version(ctx, v12 ? TLS1_2_VERSION : TLS1_3_VERSION);
	SSL_CTX_set_max_proto_version(ctx, v13 ? 0 : TLS1_2_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
	                             SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_SINGLE_ECDH_USE);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_mode(ctx,
	                 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_dh_auto(ctx, 1);
	SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, NULL);
	if (SSL_CTX_set_cipher_list(ctx, s->client_tls_ciphers) != 1)
		return fail(err, "client_tls_ciphers names no cipher", s->client_tls_ciphers);
	if (s->client_tls13_ciphers != NULL && SSL_CTX_set_ciphersuites(ctx, s->client_tls13_ciphers) != 1)
		return fail(err, "client_tls13_ciphers names no cipher", s->client_tls13_ciphers);
	return 0;
}

struct tls *
tls_new(const struct settings *settings, struct err *err)
{
	struct tls *t = calloc(1, sizeof(*t));

	if (t == NULL) {
		err_nomem(err);
		return NULL;
	}
	ERR_clear_error();
	if ((t->ctx = SSL_CTX_new(TLS_server_method())) == NULL) {
		fail(err, "could not begin TLS", NULL);
		goto fail;
	}
	if (set_rules(t->ctx, settings, err) != 0 || load_certificate(t, settings->client_tls_cert_file, err) != 0 ||
	    load_key(t->ctx, settings->client_tls_key_file, err) != 0 ||
	    (settings->client_tls_ca_file != NULL && load_authorities(t->ctx, settings, err) != 0))
		goto fail;
	return t;
fail:
	tls_free(t);
	return NULL;
}

void
tls_free(struct tls *t)
{
	if (t == NULL)
		return;
	SSL_CTX_free(t->ctx);
	free(t);
}

SSL *
tls_session(const struct tls *t, struct err *err)
{
	SSL *ssl;

	ERR_clear_error();
	if ((ssl = SSL_new(t->ctx)) == NULL)
		fail(err, "could not begin TLS", NULL);
	return ssl;
}

const uint8_t *
tls_binding(const struct tls *t, size_t *len)
{
	*len = t->binding_len;
	return t->binding_len > 0 ? t->binding : NULL;
}

bool
tls_client_name(SSL *ssl, char *out, size_t len)
{
	X509 *cert = SSL_get1_peer_certificate(ssl);
	const X509_NAME *subject;
	unsigned char *text = NULL;
	int at, n = -1;

	*out = '\0';
	if (cert == NULL)
		return false;
	if (SSL_get_verify_result(ssl) == X509_V_OK) {
		subject = X509_get_subject_name(cert);
		at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
		/* of two names nobody knows which one the authority has looked at */
		if (at >= 0 && X509_NAME_get_index_by_NID(subject, NID_commonName, at) < 0)
			n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	}
	/* a zero byte inside would make two names of one */
	if (n > 0 && (size_t)n < len && memchr(text, 0, (size_t)n) == NULL) {
		memcpy(out, text, (size_t)n);
		out[n] = '\0';
	}
	OPENSSL_free(text);
	X509_free(cert);
	return *out != '\0';
}

bool
tls_has_alpn(SSL *ssl)
{
	const unsigned char *name;
	unsigned len;

	SSL_get0_alpn_selected(ssl, &name, &len);
	return len > 0;
}

time_t
tls_expiry(const struct tls *t)
{
	const X509 *cert = SSL_CTX_get0_certificate(t->ctx);
	struct tm tm;

	return cert != NULL && ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) == 1 ? timegm(&tm) : 0;
}
