/* What a key backup holds once it is open. */
#include "keymgr/keybackup.h"
#include "walcrypt/secmem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool ready;
	struct keybackup b;
	struct err err;

	if (!ready && secmem_init(4 << 20, &err) != 0)
		return 0;
	ready = true;
	keybackup_unpack("fuzz", data, size, &b, &err);
	keybackup_free(&b);
	return 0;
}
