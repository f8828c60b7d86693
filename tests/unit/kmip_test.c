/* KMIP's encoding by the standard's own examples, questions byte by byte, and answers: whole, cut off, and not what was
 * asked. */
#include "keymgr/kmip_message.h"

#include <errno.h>
#include <stdlib.h>

#include "tests/unit/tap.h"

#define TAG 0x420020

static uint8_t out[4096];

/* OASIS KMIP Specification 1.4, section 9.1.2 "Examples" */
static void
encoding(void)
{
	static const uint8_t integer[] = {0x42, 0, 0x20, 2, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 0};
	static const uint8_t wide[] = {0x42, 0, 0x20, 3, 0, 0, 0, 8, 1, 0xB6, 0x9B, 0x4B, 0xA5, 0x74, 0x92, 0};
	static const uint8_t enumeration[] = {0x42, 0, 0x20, 5, 0, 0, 0, 4, 0, 0, 0, 0xFF, 0, 0, 0, 0};
	static const uint8_t boolean[] = {0x42, 0, 0x20, 6, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1};
	static const uint8_t text[] = {0x42, 0,   0x20, 7,   0,   0,   0,   0xB, 'H', 'e', 'l', 'l',
	                               'o',  ' ', 'W',  'o', 'r', 'l', 'd', 0,   0,   0,   0,   0};
	static const uint8_t bytes[] = {0x42, 0, 0x20, 8, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0};
	static const uint8_t date[] = {0x42, 0, 0x20, 9, 0, 0, 0, 8, 0, 0, 0, 0, 0x47, 0xDA, 0x67, 0xF8};
	static const uint8_t structure[] = {0x42, 0, 0x20, 1, 0,    0, 0, 0x20, 0x42, 0, 4, 5, 0, 0, 0, 4,    0, 0, 0, 0xFE,
	                                    0,    0, 0,    0, 0x42, 0, 5, 2,    0,    0, 0, 4, 0, 0, 0, 0xFF, 0, 0, 0, 0};
	/* read only: the longest of integers, and an interval of 10 days */
	static const uint8_t big[] = {0x42, 0,    0x20, 4,    0,    0,    0,    0x10, 0,    0, 0, 0,
	                              3,    0xFD, 0x35, 0xEB, 0x6B, 0xC2, 0xDF, 0x46, 0x18, 8, 0, 0};
	static const uint8_t interval[] = {0x42, 0, 0x20, 0xA, 0, 0, 0, 4, 0, 0xD, 0x2F, 0, 0, 0, 0, 0};
	static const uint8_t one = 1, three[] = {1, 2, 3};
	const struct {
		const uint8_t *data;
		size_t len;
	} all[] = {{integer, sizeof(integer)},  {wide, sizeof(wide)},           {enumeration, sizeof(enumeration)},
	           {boolean, sizeof(boolean)},  {text, sizeof(text)},           {bytes, sizeof(bytes)},
	           {date, sizeof(date)},        {structure, sizeof(structure)}, {big, sizeof(big)},
	           {interval, sizeof(interval)}};
	struct ttlv_writer w;
	struct ttlv item, child;
	char hello[12];
	size_t begun;

#define WRITTEN(what, put)                                                                                             \
	w = (struct ttlv_writer){.data = out, .room = sizeof(out)};                                                        \
	put;                                                                                                               \
	ok(w.len == sizeof(what) && ttlv_ok(&w), #what ": length");                                                        \
	is_mem(out, what, sizeof(what), #what)
	WRITTEN(integer, ttlv_put_integer(&w, TAG, 8));
	WRITTEN(wide, ttlv_put_wide(&w, TAG, TTLV_LONG, 123456789000000000));
	WRITTEN(enumeration, ttlv_put_enum(&w, TAG, 255));
	WRITTEN(boolean, ttlv_put_wide(&w, TAG, TTLV_BOOLEAN, one));
	WRITTEN(text, ttlv_put_text(&w, TAG, "Hello World"));
	WRITTEN(bytes, ttlv_put_bytes(&w, TAG, three, 3));
	WRITTEN(date, ttlv_put_wide(&w, TAG, TTLV_DATE, 0x47DA67F8));
	WRITTEN(structure, (begun = ttlv_begin(&w, TAG), ttlv_put_enum(&w, 0x420004, 254),
	                    ttlv_put_integer(&w, 0x420005, 255), ttlv_end(&w, begun)));
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		ok(ttlv_parse(all[i].data, all[i].len, &item) && item.tag == TAG, "example %zu is read", i);
		for (size_t cut = 0; cut < all[i].len; cut++)
			if (ttlv_parse(all[i].data, cut, &item))
				ok(false, "example %zu cut off at %zu is not", i, cut);
	}
	ttlv_parse(integer, sizeof(integer), &item);
	is_int(ttlv_u32(&item), 8, "an integer's value");
	ttlv_parse(text, sizeof(text), &item);
	ok(ttlv_text(&item, hello, sizeof(hello)) && strcmp(hello, "Hello World") == 0, "a text's value");
	ok(!ttlv_text(&item, hello, sizeof(hello) - 1), "... is not cut");
	ttlv_parse(structure, sizeof(structure), &item);
	ok(ttlv_find(&item, 0x420005, TTLV_INTEGER, &child) && ttlv_u32(&child) == 255, "a structure's second child");
	ok(!ttlv_find(&item, 0x420005, TTLV_ENUM, &child), "... by its type, too");
}

static void
limits(void)
{
	static const uint8_t lies[][24] = {
	    {0x42, 0, 0x20, 2, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 0},             /* an integer of 8 bytes */
	    {0x42, 0, 0x20, 2, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 1},             /* padding */
	    {0x42, 0, 0x20, 0xB, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 0},           /* no type */
	    {0x42, 0, 0x20, 1, 0, 0, 0, 8, 0x42, 0, 0x20, 7, 0, 0, 0, 8},       /* a child beyond its parent */
	    {0x42, 0, 0x20, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0}, /* 4 GB */
	    {0x42, 0, 0x20, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0}};            /* half a child */
	static uint8_t deep[8 * 40];
	struct ttlv_writer w = {.data = out, .room = 15};
	struct ttlv item;

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++)
		ok(!ttlv_parse(lies[i], 16, &item), "a lie, %zu, is refused", i);
	for (int i = 0; i < 40; i++) {
		uint8_t *at = deep + 8 * i;

		at[0] = 0x42;
		at[3] = 1;
		at[6] = (uint8_t)((8 * (39 - i)) >> 8);
		at[7] = (uint8_t)(8 * (39 - i));
	}
	ok(!ttlv_parse(deep, sizeof(deep), &item), "forty structures in each other are refused");
	ok(ttlv_parse(deep + 8 * 30, 80, &item), "... ten are not");
	ttlv_put_integer(&w, TAG, 1);
	ok(!ttlv_ok(&w) && w.len == 0, "what does not fit is not written");
	is_int(ttlv_total((const uint8_t *)"B\0x\1\0\0\0\5", 100), 16, "the length of an item with its padding");
	is_int(ttlv_total((const uint8_t *)"HTTP/1.1", 65536), 0, "that of another protocol's first bytes");
	is_int(ttlv_total((const uint8_t *)"B\0x\1\0\0\0\11", 23), 0, "one byte too few for it");
}

/* What a search asks for, byte by byte; that servers understand it is tests/t/351_kmip.pl's. */
static void
questions(void)
{
	char hex[1024];
	struct kmip_question q;
	struct ttlv item;
	struct err err;
	size_t len, n = 0;

	kmip_question_begin(&q, out, sizeof(out), 4, KMIP_LOCATE);
	kmip_put_search(&q, NULL);
	is_int(kmip_question_end(&q, &len, &err), 0, "a search for all keys");
	ok(ttlv_parse(out, len, &item) && item.tag == 0x420078, "... is a request");
	for (size_t i = 0; i < len && n + 10 < sizeof(hex); i++)
		n += (size_t)snprintf(hex + n, sizeof(hex) - n, "%s%02x", i > 0 && i % 4 == 0 ? " " : "", out[i]);
	ok(strstr(hex, "42004f02 00000004 00000400 00000000 42000801 00000028 42000a07 0000000b 4f626a65 63742054 79706500 "
	               "00000000 42000b05 00000004 00000002 00000000") != NULL,
	   "... of symmetric keys, byte by byte");
	kmip_question_begin(&q, out, sizeof(out), 2, KMIP_LOCATE);
	kmip_put_search(&q, "caf\xC3\xA9");
	kmip_question_end(&q, &len, &err);
	ok(memmem(out, len, "\x42\x00\x55\x07\0\0\0\5caf\xC3\xA9\0\0\0", 16) != NULL,
	   "a name beyond ASCII: bytes, counted as bytes");
	kmip_question_begin(&q, out, 100, 2, KMIP_LOCATE);
	kmip_put_search(&q, "walcrypt");
	is_int(kmip_question_end(&q, &len, &err), -1, "a question that does not fit");
	is_err(&err, ERR_USAGE, "too long", "... is said");
}

/* An answer to op with what put adds to the payload. */
static size_t
answer(enum kmip_operation op, uint32_t status, uint32_t reason, void (*put)(struct ttlv_writer *))
{
	struct ttlv_writer w = {.data = out, .room = sizeof(out)};
	size_t message = ttlv_begin(&w, 0x42007B), header = ttlv_begin(&w, 0x42007A), item, payload;

	ttlv_put_integer(&w, 0x42000D, 1);
	ttlv_end(&w, header);
	item = ttlv_begin(&w, 0x42000F);
	ttlv_put_enum(&w, 0x42005C, op);
	ttlv_put_enum(&w, 0x42007F, status);
	if (status != 0) {
		ttlv_put_enum(&w, 0x42007E, reason);
		ttlv_put_text(&w, 0x42007D, "so\nsorry");
	}
	if (put != NULL) {
		payload = ttlv_begin(&w, 0x42007C);
		put(&w);
		ttlv_end(&w, payload);
	}
	ttlv_end(&w, item);
	ttlv_end(&w, message);
	return w.len;
}

static void
put_key(struct ttlv_writer *w)
{
	static uint8_t key[KEK_LEN];
	size_t object, block, value;

	memset(key, 0xA5, sizeof(key));
	ttlv_put_text(w, 0x420094, "7");
	object = ttlv_begin(w, 0x42008F);
	block = ttlv_begin(w, 0x420040);
	ttlv_put_enum(w, 0x420042, 1);
	value = ttlv_begin(w, 0x420045);
	ttlv_put_bytes(w, 0x420043, key, sizeof(key));
	ttlv_end(w, value);
	ttlv_end(w, block);
	ttlv_end(w, object);
}

static void
put_attribute_name(struct ttlv_writer *w, const char *name)
{
	size_t attribute = ttlv_begin(w, 0x420008), value;

	ttlv_put_text(w, 0x42000A, "Name");
	value = ttlv_begin(w, 0x42000B);
	ttlv_put_text(w, 0x420055, name);
	ttlv_put_enum(w, 0x420054, 1);
	ttlv_end(w, value);
	ttlv_end(w, attribute);
}

static void
put_names(struct ttlv_writer *w)
{
	size_t attribute = ttlv_begin(w, 0x420008);

	ttlv_put_text(w, 0x42000A, "State");
	ttlv_put_enum(w, 0x42000B, 2);
	ttlv_end(w, attribute);
	put_attribute_name(w, "first");
	put_attribute_name(w, "second");
}

static void
put_valueless(struct ttlv_writer *w)
{
	size_t attribute = ttlv_begin(w, 0x420008);

	ttlv_put_text(w, 0x42000A, "State");
	ttlv_end(w, attribute);
}

static void
put_versions(struct ttlv_writer *w)
{
	for (int minor = 5; minor >= 0; minor--) {
		size_t version = ttlv_begin(w, 0x420069);

		ttlv_put_integer(w, 0x42006A, minor == 5 ? 2 : 1);
		ttlv_put_integer(w, 0x42006B, minor == 5 ? 0 : minor == 4 ? 9 : minor);
		ttlv_end(w, version);
	}
}

static void
answers(void)
{
	uint8_t key[KEK_LEN] = {0}, *exact;
	struct kmip_attributes a;
	struct ttlv payload;
	struct err err = {0};
	unsigned minor = 0;
	size_t len = answer(KMIP_GET, 0, 0, put_key);

	ok(kmip_answer_read(out, len, KMIP_GET, &payload, &err) == 0 && kmip_read_key(&payload, "7", key, &err) == 0 &&
	       key[0] == 0xA5 && key[31] == 0xA5,
	   "a key");
	is_int(kmip_read_key(&payload, "77", key, &err), -1, "another object's");
	is_err(&err, ERR_FAILED, "another object", "... is refused");
	is_int(kmip_answer_read(out, len, KMIP_LOCATE, &payload, &err), -1, "an answer to another question");
	is_err(&err, ERR_FAILED, "another question", "... is refused");
	/* at each length, in memory of just that length; and with each bit turned */
	for (size_t cut = 0; cut < len; cut++) {
		if ((exact = malloc(cut + 1)) == NULL)
			exit(1);
		memcpy(exact, out, cut);
		if (kmip_answer_read(exact, cut, KMIP_GET, &payload, &err) == 0)
			ok(false, "an answer cut off at %zu is refused", cut);
		free(exact);
	}
	for (size_t bit = 0; bit < 8 * len; bit++) {
		out[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (kmip_answer_read(out, len, KMIP_GET, &payload, &err) == 0)
			kmip_read_key(&payload, "7", key, &err);
		out[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	ok(true, "answers cut off or with a bit turned are borne");

	len = answer(KMIP_GET_ATTRIBUTES, 0, 0, put_names);
	ok(kmip_answer_read(out, len, KMIP_GET_ATTRIBUTES, &payload, &err) == 0 &&
	       kmip_read_attributes(&payload, "second", &a, &err) == 0,
	   "attributes");
	ok(a.state == KMIP_ACTIVE && a.names == 2 && strcmp(a.name, "second") == 0, "... the wanted name of two");
	ok(kmip_read_attributes(&payload, "third", &a, &err) == 0 && strcmp(a.name, "first") == 0, "... the first, else");
	len = answer(KMIP_GET_ATTRIBUTES, 0, 0, put_valueless);
	ok(kmip_answer_read(out, len, KMIP_GET_ATTRIBUTES, &payload, &err) == 0 &&
	       kmip_read_attributes(&payload, NULL, &a, &err) != 0,
	   "an attribute without a value");
	is_err(&err, ERR_FAILED, "attribute's value", "... is refused");
	len = answer(KMIP_DISCOVER_VERSIONS, 0, 0, put_versions);
	ok(kmip_answer_read(out, len, KMIP_DISCOVER_VERSIONS, &payload, &err) == 0 &&
	       kmip_read_versions(&payload, &minor, &err) == 0,
	   "versions");
	is_int(minor, 3, "... the server's first that we speak, not 2.0 nor 1.9");
	len = answer(KMIP_DESTROY, 0, 0, NULL);
	is_int(kmip_answer_read(out, len, KMIP_DESTROY, &payload, &err), 0, "an answer without a payload");
	ok(!ttlv_find(&payload, 0x420094, TTLV_TEXT, &payload), "... has nothing in it");
}

static void
failures(void)
{
	static const struct {
		uint32_t reason;
		enum err_class class;
		int os_errno;
		const char *said;
	} all[] = {{1, ERR_FAILED, ENOENT, "no such object"},
	           {3, ERR_UNREACHABLE, 0, "denies it"},
	           {0xC, ERR_UNREACHABLE, 0, "denies it"},
	           {5, ERR_FAILED, ENOSYS, "does not know the operation"},
	           {0x100, ERR_FAILED, 0, "with reason 0x100"}};
	struct ttlv payload;
	struct err err;

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		size_t len = answer(KMIP_GET, 1, all[i].reason, NULL);

		is_int(kmip_answer_read(out, len, KMIP_GET, &payload, &err), -1, "a failure with reason %u", all[i].reason);
		is_err(&err, all[i].class, all[i].said, "... is said");
		is_int(err.os_errno, all[i].os_errno, "... its errno");
		is_str(err.detail, "It said: so sorry", "... the server's words, on one line");
	}
}

int
main(void)
{
	encoding();
	limits();
	questions();
	answers();
	failures();
	return tap_done();
}
