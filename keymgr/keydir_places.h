/*
 * keydir_places: the three folders of a key directory, the lock on it, and which of its folders is in force. Between
 * keydir.c, which reads, and keydir_change.c, which writes; nobody else includes this.
 */
#ifndef KEYMGR_KEYDIR_PLACES_H
#define KEYMGR_KEYDIR_PLACES_H

#include <limits.h>
#include <stdbool.h>

#include "keymgr/keydir.h"

/* The three folders, and which of them are there. */
struct keydir_places {
	char live[PATH_MAX], new[PATH_MAX], old[PATH_MAX];
	bool has_live, has_new, has_old;
};

bool keydir_is_folder(const char *path);
/* What is there now: counts only under the lock. */
int keydir_places_look(struct keydir_places *p, const char *path, struct err *err);
/*
 * A kernel lock (how: LOCK_SH or LOCK_EX) on the folder itself: it leaves no file behind, and a process that dies lets
 * it go. Its descriptor, to be closed; -1 when it is not to be had within ten seconds (ERR_REFUSED).
 */
int keydir_lock(const char *path, int how, struct err *err);
/* The folder whose keys are in force: live/, or the one that repair will make live/; NULL: none. */
const char *keydir_in_force(const struct keydir_places *p);
/* Is the set in this folder whole, as far as one can see without the cluster key? */
bool keydir_looks_whole(const char *folder);
/* Only live/ may be there: what a change needs. ERR_REFUSED naming repair; os_errno ENOENT when there is nothing. */
int keydir_check_settled(const char *path, const struct keydir_places *p, struct err *err);
/* Lock, look, load the folder in force, *folder; files to be freed. The lock's descriptor, or -1. */
int keydir_lock_load(const char *path, int how, struct keydir_places *p, const char **folder,
                     struct keydir_files *files, struct err *err);

#endif
