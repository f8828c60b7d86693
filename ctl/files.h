/* files: the files of a data directory that hold what walcrypt encrypts: relations and WAL, in tablespaces too. */
#ifndef CTL_FILES_H
#define CTL_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/pgfile.h"

struct data_file {
	char *path; /* relative to the data directory */
	struct pgfile is;
	uint64_t len;
};

struct data_files {
	struct data_file *file; /* relations first, then WAL by name */
	size_t n, room, nrelations;
	uint64_t bytes;
};

/* List them. A file or folder that vanishes meanwhile is left out (a running server). */
int data_files_list(const char *datadir, struct data_files *files, struct err *err);
void data_files_free(struct data_files *files);

#endif
