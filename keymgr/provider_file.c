/* provider_file: the cluster key in a file: 64 hex digits, readable by nobody else. For tests, small sites, and mounted
 * secrets. */
#include <errno.h>
#include <stdio.h>

#include "common/durable.h"
#include "common/hex.h"
#include "keymgr/provider_scheme.h"
#include "keymgr/secretfile.h"
#include "walcrypt/secmem.h"

#define FILE_TEXT_MAX 256

static int
file_fetch(const char *path, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	char *text = secmem_alloc(FILE_TEXT_MAX, err), what[300];
	int result = -1;
	size_t len;

	(void)conf; /* a file needs no deadline */
	snprintf(what, sizeof(what), "cluster key file \"%s\"", path);
	if (text != NULL && secretfile_read(path, "cluster key file", text, FILE_TEXT_MAX, &len, err) == 0)
		result = provider_parse_key(text, len, false, what, kek, err);
	secmem_free(text);
	return result;
}

static int
file_create(const char *path, const struct kek_conf *conf, const struct kek *kek, struct err *err)
{
	char *text = secmem_alloc(2 * KEK_LEN + 1, err);
	int result;

	(void)conf;
	if (text == NULL)
		return -1;
	hex_encode(kek->key, KEK_LEN, text);
	text[2 * KEK_LEN] = '\n';
	result = durable_create(path, text, 2 * KEK_LEN + 1, 0600, err);
	if (result != 0 && err->os_errno == EEXIST) {
		err_set(err, ERR_REFUSED, "cluster key file \"%s\" exists already", path);
		err_hint(err, "To use the key in it, leave --create-kek away.");
	}
	secmem_free(text);
	return result;
}

const struct provider_scheme provider_file = {.name = "file", .fetch = file_fetch, .create = file_create};
