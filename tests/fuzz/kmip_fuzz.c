/* Answers of a KMIP server: the first byte says to which question. */
#include <stdlib.h>
#include <string.h>

#include "keymgr/kmip_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const enum kmip_operation operations[] = {KMIP_DISCOVER_VERSIONS, KMIP_LOCATE, KMIP_GET_ATTRIBUTES, KMIP_GET,
	                                                 KMIP_REGISTER,          KMIP_DESTROY};
	char uids[4][KMIP_UID_MAX + 1];
	struct kmip_attributes a;
	uint8_t key[KEK_LEN], *exact;
	struct ttlv payload;
	struct err err = {0};
	unsigned minor;
	size_t n;

	if (len == 0 || (exact = malloc(len)) == NULL)
		return 0;
	memcpy(exact, data + 1, len - 1);
	if (kmip_answer_read(exact, len - 1, operations[data[0] % 6], &payload, &err) != 0) {
		if (err.class == ERR_NONE)
			abort();
		free(exact);
		return 0;
	}
	if (kmip_read_versions(&payload, &minor, &err) == 0 && (minor < 2 || minor > 4))
		abort();
	if (kmip_read_uids(&payload, uids, 4, &n, &err) == 0 && n > 4)
		abort();
	kmip_read_uid(&payload, uids[0], &err);
	kmip_read_key(&payload, "u1", key, &err);
	if (kmip_read_attributes(&payload, "walcrypt", &a, &err) == 0 && strlen(a.name) > KMIP_NAME_MAX)
		abort();
	free(exact);
	return 0;
}
