#include "storage/rewind.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "storage/process.h"

struct rewind rewind_dirs;

/* The value of option at argv[i], in either spelling; NULL when it is another option. */
static const char *
value_of(int argc, char **argv, int i, const char *name)
{
	size_t len = strlen(name);

	if (strncmp(argv[i], name, len) != 0)
		return NULL;
	if (argv[i][len] == '=')
		return argv[i] + len + 1;
	return argv[i][len] == '\0' && i + 1 < argc ? argv[i + 1] : NULL;
}

void
rewind_arguments(int argc, char **argv)
{
	char keys[PATH_MAX];

	for (int i = 1; i < argc; i++) {
		const char *source = value_of(argc, argv, i, "--source-pgdata");
		const char *target = value_of(argc, argv, i, "--target-pgdata");

		if (target == NULL)
			target = value_of(argc, argv, i, "-D");
		if (target == NULL && strncmp(argv[i], "-D", 2) == 0 && argv[i][2] != '\0')
			target = argv[i] + 2;
		if (source != NULL)
			rewind_dirs.source = source;
		if (target != NULL)
			rewind_dirs.target = target;
	}
	rewind_dirs.source_encrypted =
	    rewind_dirs.source != NULL &&
	    snprintf(keys, sizeof(keys), "%s/pg_cryptokeys", rewind_dirs.source) < (int)sizeof(keys) &&
	    access(keys, F_OK) == 0;
}

/* Is path below dir? Slashes may be doubled, as where an option ends in one; the length of what matched, else 0. */
static size_t
below(const char *path, const char *dir)
{
	const char *p = path, *d = dir;

	while (*d != '\0') {
		if (*d == '/' && (d[1] == '/' || d[1] == '\0')) {
			d++;
			continue;
		}
		while (*p == '/' && p[1] == '/')
			p++;
		if (*p != *d)
			return 0;
		p++, d++;
	}
	return *p == '/' ? (size_t)(p - path) : 0;
}

bool
rewind_in_source(const char *path)
{
	size_t source, target;
	struct err err;

	if (rewind_dirs.source == NULL)
		return false;
	source = below(path, rewind_dirs.source);
	target = rewind_dirs.target != NULL ? below(path, rewind_dirs.target) : 0;
	if (source != target)
		return source > target; /* one may lie below the other */
	err_set(&err, ERR_REFUSED, "could not tell whether \"%s\" belongs to pg_rewind's source or to its target", path);
	err_hint(&err, "Give both directories as absolute paths, without \"..\".");
	process_die(&err);
}
