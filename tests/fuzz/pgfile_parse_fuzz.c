/* Any text as a path: what a relation is called leads back to its place, and a suffix means what it means alone. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "walcrypt/pgfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *path = malloc(len + 1);
	struct pgfile f, g;
	uint64_t lsn;
	int prefix;

	memcpy(path, data, len);
	path[len] = '\0';
	for (int in_tablespace = 0; in_tablespace < 2; in_tablespace++) {
		pgfile_parse(path, in_tablespace, &f);
		if (f.kind == PGFILE_RELATION) {
			static const char *const forks[] = {"", "_fsm", "_vm", "_init"};
			char name[128], temp[16] = "";

			if (f.at.fork > 3 || f.at.block % PAGE_BLOCKS_PER_SEGMENT != 0)
				abort();
			if (f.at.temp)
				memcpy(temp, "t1_", 4);
			snprintf(name, sizeof(name), "base/%" PRIu32 "/%s%" PRIu32 "%s.%" PRIu32, f.at.db, temp, f.at.rel,
			         forks[f.at.fork], f.at.block / PAGE_BLOCKS_PER_SEGMENT);
			pgfile_parse(name, false, &g);
			if (memcmp(&f.at, &g.at, sizeof(f.at)) != 0 || g.kind != PGFILE_RELATION)
				abort();
		}
		if (f.kind == PGFILE_WAL && pgfile_wal_segno(&f, 16 << 20) < f.log)
			abort();
	}
	prefix = pgfile_parse_suffix(path, &f);
	if ((prefix < 0) != (f.kind == PGFILE_OTHER) || prefix > (int)len)
		abort();
	if (prefix >= 0) {
		if (pgfile_parse_suffix(path + prefix, &g) != 0 || memcmp(&f, &g, sizeof(f)) != 0)
			abort();
	}
	if (lsn_parse(path, &lsn) == 0) {
		char text[LSN_TEXT_LEN];
		uint64_t again;

		lsn_format(text, lsn);
		if (lsn_parse(text, &again) != 0 || again != lsn)
			abort();
	}
	free(path);
	return 0;
}
