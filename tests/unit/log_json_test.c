/* log_json: every line is one whole JSON object, whatever is in the values and however little room there is. */
#include <jansson.h>
#include <string.h>

#include "common/log_json.h"
#include "tests/unit/tap.h"

static void
check_values(void)
{
	const struct log_field fields[] = {
	    {"session_id", "7", true}, {"node", "bl\"ue\\", false}, {"none", NULL, false}, {"empty", "", false}};
	const struct log_about about = {"prefix", fields, 4};
	const struct log_record r = {"now", "LOG",  "", "a\nb\x01\xC3\xA9\xFF\xC0\xAF\xF4\x90\x80\x80",
	                             NULL,  "hint", 42, &about};
	char out[1024];
	size_t n = log_json(out, sizeof(out), &r);
	json_t *o = json_loadb(out, n, 0, NULL);

	ok(o != NULL, "an object");
	ok(json_integer_value(json_object_get(o, "session_id")) == 7, "a number");
	ok(strcmp(json_string_value(json_object_get(o, "node")), "bl\"ue\\") == 0, "quotes and backslashes");
	ok(strcmp(json_string_value(json_object_get(o, "message")),
	          "a\nb\x01\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD") ==
	       0,
	   "control characters stay, what is no UTF-8 is replaced byte by byte");
	ok(json_object_get(o, "none") == NULL && json_object_get(o, "empty") == NULL &&
	       json_object_get(o, "detail") == NULL && json_object_get(o, "state_code") == NULL,
	   "what is not there is left out");
	json_decref(o);
}

static void
check_cut(void)
{
	char text[1000], out[1500];
	bool whole = true, said = true, inside = true;

	/* three bytes each, and six when they are escaped */
	for (size_t i = 0; i + 3 < sizeof(text); i += 3)
		memcpy(text + i, i % 2 == 0 ? "\xE2\x82\xAC" : "\x01\x02\x03", 3);
	text[sizeof(text) - 1] = '\0';
	for (size_t len = 256; len <= sizeof(out); len++) {
		const struct log_record r = {"2026-01-02 03:04:05.678 UTC", "WARNING", "XX000", text, text, text, 1, NULL};
		size_t n;
		json_t *o;

		memset(out, '#', sizeof(out));
		n = log_json(out, len, &r);
		o = json_loadb(out, n, 0, NULL);
		whole = whole && o != NULL;
		said = said && json_string_length(json_object_get(o, "message")) > 30;
		inside = inside && n <= len && (len == sizeof(out) || out[len] == '#');
		json_decref(o);
	}
	ok(whole, "an object with any room");
	ok(said, "with the beginning of the message");
	ok(inside, "nothing is written behind the room");
}

int
main(void)
{
	check_values();
	check_cut();
	return tap_done();
}
