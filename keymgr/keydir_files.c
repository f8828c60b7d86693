#include "keymgr/keydir_files.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/durable.h"
#include "common/folder.h"

bool
keydir_is_wkey(const char *name)
{
	size_t len = strlen(name);

	return len > 5 && strcmp(name + len - 5, ".wkey") == 0;
}

static bool
is_temporary(const char *name)
{
	return strstr(name, ".tmp.") != NULL;
}

const struct keydir_file *
keydir_file_find(const struct keydir_files *files, const char *name)
{
	for (size_t i = 0; i < files->n; i++)
		if (strcmp(files->file[i].name, name) == 0)
			return &files->file[i];
	return NULL;
}

int
keydir_file_order(const void *a, const void *b)
{
	return strcmp(((const struct keydir_file *)a)->name, ((const struct keydir_file *)b)->name);
}

void
keydir_files_free(struct keydir_files *files)
{
	for (size_t i = 0; i < files->n; i++)
		free(files->file[i].data);
	free(files->file);
	memset(files, 0, sizeof(*files));
}

static int
file_load(const char *folder, const char *name, struct keydir_files *files, struct err *err)
{
	char path[PATH_MAX];
	struct keydir_file *f, *grown;

	if (strlen(name) >= KEYDIR_NAME_LEN || files->n == KEYDIR_MAX_FILES)
		return err_set(err, ERR_DAMAGED, "\"%s/%s\" does not belong into a key directory", folder, name);
	if ((grown = reallocarray(files->file, files->n + 1, sizeof(*grown))) == NULL)
		return err_nomem(err);
	files->file = grown;
	f = &grown[files->n];
	memset(f, 0, sizeof(*f));
	memcpy(f->name, name, strlen(name)); /* its length was looked at above */
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	if ((f->data = durable_read(path, KEYDIR_MAX_FILE_LEN, &f->len, err)) == NULL)
		return -1;
	files->n++;
	return 0;
}

int
keydir_files_load(const char *folder, struct keydir_files *files, struct err *err)
{
	struct folder f;
	const char *name;
	int result = 0;

	memset(files, 0, sizeof(*files));
	if (folder_open(&f, "key directory", folder, err) != 0)
		return -1;
	while (result == 0 && (name = folder_next(&f)) != NULL)
		if (name[0] != '.' && !is_temporary(name))
			result = file_load(folder, name, files, err);
	if ((result = folder_close(&f, result, err)) != 0)
		keydir_files_free(files);
	else if (files->n > 0)
		qsort(files->file, files->n, sizeof(*files->file), keydir_file_order);
	return result;
}
