/* files: who may read the secrets that the configuration names, and how long its certificates are good. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "ctl/doctor/checks.h"
#include "walcrypt/certificate.h"

#define SOON_DAYS 30
#define PEM_MAX (1u << 20)

/* A file that only its owner may read (0640 where root owns it, as libpq has it for private keys). */
static void
check_secret(struct findings *f, const char *option, const char *path)
{
	struct stat st;

	if (path == NULL)
		return;
	if (stat(path, &st) != 0)
		finding(f, FINDING_PROBLEM, NULL, "%s \"%s\" could not be looked at: %s", option, path, strerror(errno));
	else if ((st.st_mode & (st.st_uid == 0 ? 0137 : 0177)) != 0)
		finding(f, FINDING_PROBLEM, "chmod 600 it (640 where root owns it).", "%s \"%s\" has mode %04o", option, path,
		        (unsigned)st.st_mode & 07777);
	else if (access(path, R_OK) != 0)
		finding(f, FINDING_NOTE, "Run doctor as the user that runs walcrypt.", "%s \"%s\" is not ours to read", option,
		        path);
	else
		finding(f, FINDING_OK, NULL, "%s \"%s\" is its owner's alone", option, path);
}

static void
check_certificate(struct findings *f, const char *option, const char *path)
{
	struct err err;
	uint8_t *pem;
	size_t len;
	time_t end;
	long days;

	if (path == NULL)
		return;
	if ((pem = durable_read(path, PEM_MAX, &len, &err)) == NULL || certificate_end(pem, len, &end, &err) != 0) {
		err_context(&err, "%s \"%s\"", option, path);
		finding_err(f, FINDING_PROBLEM, &err);
		free(pem);
		return;
	}
	days = (long)(end - time(NULL)) / 86400;
	if (end <= time(NULL))
		finding(f, FINDING_PROBLEM, "Put a new one in its place; the proxy takes it at a reload.",
		        "the certificate of %s has expired", option);
	else
		finding(f, days < SOON_DAYS ? FINDING_WARNING : FINDING_OK,
		        days < SOON_DAYS ? "Put a new one in its place; the proxy takes it at a reload." : NULL,
		        "the certificate of %s is good for %ld days", option, days);
	free(pem);
}

void
doctor_files(struct findings *f, const struct settings *s)
{
	struct stat st;

	findings_area(f, "configuration %s", s->file);
	if (stat(s->file, &st) == 0 && (st.st_mode & 0004) != 0)
		finding(f, FINDING_NOTE, "chmod 640 it: what it names helps whoever looks for a way in.",
		        "everybody may read it");
	else
		finding(f, FINDING_OK, NULL, "it is sound, and not everybody may read it");
	check_secret(f, "auth_file", s->auth_file);
	check_secret(f, "client_tls_key_file", s->client_tls_key_file);
	check_certificate(f, "client_tls_cert_file", s->client_tls_cert_file);
	for (size_t i = 0; i < s->nkeks; i++) {
		const struct settings_kek *kek = &s->keks[i];

		check_secret(f, "token_file", kek->token_file);
		check_secret(f, "key_file", kek->key_file);
		check_secret(f, "login_file", kek->login_file);
		check_certificate(f, "ca_file", kek->ca_file);
		check_certificate(f, "cert_file", kek->cert_file);
	}
	for (size_t i = 0; i < s->nnodes; i++)
		if (s->nodes[i].allow_plaintext)
			finding(f, FINDING_WARNING, "Take allow_plaintext out, and let TLS carry it.",
			        "\"%s\" may send and take WAL over a network in clear", s->nodes[i].name);
	if (s->allow_no_checksums)
		finding(f, FINDING_WARNING, "Switch checksums on with pg_checksums, then take allow_no_checksums out.",
		        "base backups of clusters without data checksums are served");
}
