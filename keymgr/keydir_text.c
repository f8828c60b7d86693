#include "keymgr/keydir_text.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYDIR_FORMAT 1

char *
keydir_text_write(const struct keydir_info *info, const char *mac_hex, struct err *err)
{
	char identifier[24], *bare, *text = NULL;
	json_t *root = NULL, *epochs = json_array();

	snprintf(identifier, sizeof(identifier), "%" PRIu64, info->system_identifier);
	for (size_t i = 0; epochs != NULL && i < info->nepochs; i++) {
		json_t *epoch = json_pack("{s:I, s:I, s:s, s:s}", "number", (json_int_t)info->epochs[i].number,
		                          "after_timeline", (json_int_t)info->epochs[i].after_timeline, "id",
		                          info->epochs[i].id, "created", info->epochs[i].created);

		if (epoch == NULL || json_array_append_new(epochs, epoch) != 0)
			goto done;
	}
	/* jansson keeps the order in which members are packed: that order is the canonical one */
	root =
	    json_pack("{s:i, s:s, s:s, s:s, s:s, s:I, s:O, s:s, s:s, s:s, s:s}", "format", KEYDIR_FORMAT, "state",
	              info->state, "method", key_method_name(info->method), "system_identifier", identifier, "relation_id",
	              info->relation_id, "wal_epoch", (json_int_t)info->wal_epoch, "epochs", epochs, "kek_id", info->kek_id,
	              "kek_version", info->kek_version, "provider", info->provider, "mac", mac_hex);
	if (root == NULL)
		goto done;
	if ((bare = json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII)) == NULL ||
	    asprintf(&text, "%s\n", bare) < 0)
		text = NULL;
	free(bare);
done:
	json_decref(epochs);
	json_decref(root);
	if (text == NULL)
		err_nomem(err);
	return text;
}

static int
copy_text(char *to, size_t size, const char *from)
{
	size_t len = strlen(from);

	if (len >= size)
		return -1;
	memcpy(to, from, len + 1);
	return 0;
}

/* A key id is exactly 16 lower-case hex digits: it reaches logs and terminals. */
static int
copy_id(char to[static KEY_ID_HEX_LEN], const char *from)
{
	if (strlen(from) != KEY_ID_HEX_LEN - 1 || strspn(from, "0123456789abcdef") != KEY_ID_HEX_LEN - 1)
		return -1;
	memcpy(to, from, KEY_ID_HEX_LEN);
	return 0;
}

static int
identifier_parse(const char *text, uint64_t *identifier)
{
	char *end, again[24];

	*identifier = strtoull(text, &end, 10);
	snprintf(again, sizeof(again), "%" PRIu64, *identifier);
	return strcmp(again, text) == 0 ? 0 : -1;
}

static int
epochs_read(json_t *epochs, struct keydir_info *info)
{
	json_t *epoch;
	size_t i;

	if (!json_is_array(epochs) || json_array_size(epochs) == 0 || json_array_size(epochs) > KEYSET_MAX_EPOCHS)
		return -1;
	json_array_foreach(epochs, i, epoch)
	{
		const char *id, *created;
		json_int_t number, after;

		if (json_unpack(epoch, "{s:I, s:I, s:s, s:s !}", "number", &number, "after_timeline", &after, "id", &id,
		                "created", &created) != 0)
			return -1;
		if (number < 1 || number > UINT32_MAX || after < 0 || after > UINT32_MAX ||
		    copy_id(info->epochs[i].id, id) != 0 ||
		    copy_text(info->epochs[i].created, sizeof(info->epochs[i].created), created) != 0)
			return -1;
		info->epochs[i].number = (uint32_t)number;
		info->epochs[i].after_timeline = (uint32_t)after;
	}
	info->nepochs = json_array_size(epochs);
	return 0;
}

static int
members_read(json_t *root, struct keydir_info *info, char *mac_hex)
{
	const char *state, *method, *identifier, *relation_id, *kek_id, *kek_version, *provider, *mac;
	json_int_t wal_epoch;
	json_t *epochs;
	int format;

	if (json_unpack(root, "{s:i, s:s, s:s, s:s, s:s, s:I, s:o, s:s, s:s, s:s, s:s !}", "format", &format, "state",
	                &state, "method", &method, "system_identifier", &identifier, "relation_id", &relation_id,
	                "wal_epoch", &wal_epoch, "epochs", &epochs, "kek_id", &kek_id, "kek_version", &kek_version,
	                "provider", &provider, "mac", &mac) != 0)
		return -1;
	info->wal_epoch = (uint32_t)wal_epoch;
	if (wal_epoch < 1 || wal_epoch > UINT32_MAX || key_method_parse(method, &info->method) != 0 ||
	    identifier_parse(identifier, &info->system_identifier) != 0)
		return -1;
	if (copy_id(info->relation_id, relation_id) != 0 || copy_id(info->kek_id, kek_id) != 0 ||
	    copy_text(info->state, sizeof(info->state), state) != 0 ||
	    copy_text(info->kek_version, sizeof(info->kek_version), kek_version) != 0 ||
	    copy_text(info->provider, sizeof(info->provider), provider) != 0 ||
	    copy_text(mac_hex, KEYDIR_MAC_HEX_LEN, mac) != 0)
		return -1;
	return epochs_read(epochs, info);
}

int
keydir_text_read(const char *path, const char *text, size_t len, struct keydir_info *info,
                 char mac_hex[static KEYDIR_MAC_HEX_LEN], struct err *err)
{
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL), *format;
	char *again = NULL;
	int result = -1;

	memset(info, 0, sizeof(*info));
	format = json_object_get(root, "format");
	if (json_is_integer(format) && json_integer_value(format) > KEYDIR_FORMAT) {
		err_later(err, json_integer_value(format), KEYDIR_FORMAT, "\"%s\"", path);
		goto done;
	}
	if (root == NULL || members_read(root, info, mac_hex) != 0) {
		err_set(err, ERR_DAMAGED, "\"%s\" is damaged", path);
		err_hint(err, "Restore the key directory from a copy.");
		goto done;
	}
	/* the MAC is over the canonical text, so the bytes in the file must be that text: no two files say the same */
	if ((again = keydir_text_write(info, mac_hex, err)) == NULL)
		goto done;
	if (strlen(again) != len || memcmp(again, text, len) != 0) {
		err_set(err, ERR_DAMAGED, "\"%s\" is damaged: it is not written as walcrypt writes it", path);
		err_hint(err, "Restore the key directory from a copy.");
		goto done;
	}
	result = 0;
done:
	free(again);
	json_decref(root);
	return result;
}

time_t
keydir_time(const char *created)
{
	struct tm tm = {0};
	const char *end = strptime(created, "%Y-%m-%dT%H:%M:%SZ", &tm);

	return end == NULL || *end != '\0' ? -1 : timegm(&tm);
}
