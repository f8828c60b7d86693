#include "ctl/json_record.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/durable.h"

#define RECORD_MAX (1 << 20)

int
json_record_write(const char *path, json_t *root, struct err *err)
{
	char *text = root != NULL ? json_dumps(root, JSON_INDENT(2)) : NULL;
	int result;

	json_decref(root);
	if (text == NULL)
		return err_nomem(err);
	result = durable_write(path, text, strlen(text), 0600, err);
	free(text);
	return result;
}

int
json_record_damaged(const char *path, const char *hint, struct err *err)
{
	err_set(err, ERR_DAMAGED, "\"%s\" is damaged", path);
	return err_hint(err, "%s", hint);
}

int
json_record_read(const char *path, int format, const char *hint, json_t **root, struct err *err)
{
	uint8_t *data;
	size_t len;
	int is;

	if ((data = durable_read(path, RECORD_MAX, &len, err)) == NULL)
		return err->os_errno == ENOENT ? 0 : -1;
	*root = json_loadb((const char *)data, len, JSON_REJECT_DUPLICATES, NULL);
	free(data);
	if (*root == NULL || json_unpack(*root, "{s:i}", "format", &is) != 0)
		json_record_damaged(path, hint, err);
	else if (is == format)
		return 1;
	else if (is > format)
		err_later(err, is, format, "\"%s\"", path);
	else
		json_record_damaged(path, hint, err);
	json_decref(*root);
	return -1;
}
