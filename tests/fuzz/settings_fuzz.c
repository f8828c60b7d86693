/* walcrypt.ini from nobody knows where: parsed or refused with a message, never worse. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "common/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct err err = {0};
	struct settings *s = settings_parse("/etc/walcrypt.ini", (const char *)data, len, &err);

	if (s == NULL && err.text[0] == '\0')
		abort();
	settings_free(s);
	return 0;
}
