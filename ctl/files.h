/* files: the files of a data directory that hold what walcrypt encrypts: relations and WAL, in tablespaces too. */
#ifndef CTL_FILES_H
#define CTL_FILES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/err.h"
#include "walcrypt/pgfile.h"

/*
 * Call visit for each file and folder below one of the data directory's folders, symbolic links followed; a folder
 * comes before what is in it. path is relative to the data directory. Left out: what vanishes meanwhile (a running
 * server), and in tablespaces the folders of other major versions, which belong to other clusters. visit returns 0, 1
 * (do not go into this folder) or -1, which ends the walk. folder ".": all of the data directory.
 */
typedef int data_files_visitor(void *arg, const char *path, const struct stat *st, struct err *err);
int data_files_walk(const char *datadir, const char *folder, data_files_visitor *visit, void *arg, struct err *err);
/* The same of any folder, an archive say: nothing is left out, path is relative to it. ERR_REFUSED: it goes on below
 * eight folders, as a symbolic link does that leads back. */
int data_files_walk_any(const char *folder, data_files_visitor *visit, void *arg, struct err *err);
/* Where relations and WAL are; NULL-terminated. */
extern const char *const data_files_folders[];

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

/* List relations and WAL. */
int data_files_list(const char *datadir, struct data_files *files, struct err *err);
void data_files_free(struct data_files *files);

#endif
