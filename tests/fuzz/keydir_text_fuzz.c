/* A data directory's keyset.json is read before its authentication code can be checked. What is taken must be
 * canonical. */
#include "keymgr/keydir_text.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char mac[KEYDIR_MAC_HEX_LEN], *again;
	struct keydir_info info;
	struct err err = {0};

	if (keydir_text_read("keyset.json", (const char *)data, len, &info, mac, &err) != 0) {
		if (err.text[0] == '\0')
			abort();
		return 0;
	}
	again = keydir_text_write(&info, mac, &err);
	if (again == NULL || strlen(again) != len || memcmp(again, data, len) != 0)
		abort();
	free(again);
	return 0;
}
