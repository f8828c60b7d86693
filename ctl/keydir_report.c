#include "ctl/keydir_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "keymgr/keydir_text.h"

void
keydir_text_plain(const char *text, char *out, size_t len)
{
	size_t i = 0;

	for (; text[i] != '\0' && i + 1 < len; i++)
		out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	out[i] = '\0';
}

int
keydir_age_days(const char *created, time_t now)
{
	time_t made = keydir_time(created);

	return made < 0 ? -1 : (int)((now - made) / (24 * 60 * 60));
}

json_t *
keydir_json(const char *path, const char *name, const struct keydir_info *info)
{
	json_t *epochs = json_array(), *root = json_object();
	time_t now = time(NULL);
	char identifier[24];

	snprintf(identifier, sizeof(identifier), "%" PRIu64, info->system_identifier);
	for (size_t i = 0; i < info->nepochs; i++)
		json_array_append_new(epochs,
		                      json_pack("{s:I, s:I, s:s, s:s, s:i}", "number", (json_int_t)info->epochs[i].number,
		                                "after_timeline", (json_int_t)info->epochs[i].after_timeline, "id",
		                                info->epochs[i].id, "created", info->epochs[i].created, "age_days",
		                                keydir_age_days(info->epochs[i].created, now)));
	if (name != NULL)
		json_object_set_new(root, "name", json_string(name));
	if (json_object_update_new(
	        root, json_pack("{s:s, s:s, s:b, s:s, s:s, s:s, s:o, s:s, s:s, s:s}", "directory", path, "state",
	                        info->state, "cut_off", (int)info->cut_off, "method", key_method_name(info->method),
	                        "system_identifier", identifier, "relation_id", info->relation_id, "epochs", epochs,
	                        "kek_id", info->kek_id, "kek_version", info->kek_version, "provider", info->provider)) == 0)
		return root;
	json_decref(root);
	return NULL;
}
