/*
 * folder: the names in one folder, read so that an error in the middle is not taken for the end (readdir(3)).
 *
 *	if (folder_open(&f, "keystore", path, err) != 0)
 *		return -1;
 *	while (result == 0 && (name = folder_next(&f)) != NULL)
 *		result = ...;
 *	return folder_close(&f, result, err);
 */
#ifndef COMMON_FOLDER_H
#define COMMON_FOLDER_H

#include <dirent.h>

#include "common/err.h"

struct folder {
	DIR *dir;
	const char *what, *path; /* borrowed until folder_close */
	int read_errno;          /* of the first name that could not be read */
};

/* WHAT is what messages call it ("directory", "keystore"). 0, or -1 with err set (os_errno kept), nothing to close. */
int folder_open(struct folder *f, const char *what, const char *path, struct err *err);
/* The same for a folder that need not be there. 1; 0 when there is none, nothing to close; or -1 with err set. */
int folder_open_if_any(struct folder *f, const char *what, const char *path, struct err *err);
/* The next name but "." and "..", good until the next call; NULL at the end or when no more can be read. */
const char *folder_next(struct folder *f);
/* RESULT as it is; or, when that is 0 and names could not be read, -1 with err set. */
int folder_close(struct folder *f, int result, struct err *err);

#endif
