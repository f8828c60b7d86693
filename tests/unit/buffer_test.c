/* The capped buffer: grows, is consumed, never passes its maximum, and tells what went wrong once. */
#include "replication/buffer.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"

static void
integers(void)
{
	struct err err = {0};
	struct buffer b;

	buffer_init(&b, 100);
	buffer_put_u8(&b, 0x01);
	buffer_put_u16(&b, 0x0203);
	buffer_put_u32(&b, 0x04050607);
	buffer_put_u64(&b, UINT64_C(0x08090A0B0C0D0E0F));
	buffer_put_str(&b, "x");
	buffer_put_text(&b, "yz");
	is_int(buffer_check(&b, &err), 0, "puts work");
	is_int(buffer_len(&b), 19, "length");
	is_mem(buffer_data(&b), "\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17x\0yz", 19,
	       "network order, strings with and without NUL");
	is_int(get_u16(buffer_data(&b) + 1), 0x0203, "get_u16");
	is_int(get_u32(buffer_data(&b) + 3), 0x04050607, "get_u32");
	is_int(get_u64(buffer_data(&b) + 7), 0x08090A0B0C0D0E0F, "get_u64");
	buffer_free(&b);
	is_int(b.max, 100, "free keeps the maximum");
}

static void
cap(void)
{
	struct err err = {0};
	struct buffer b;
	uint8_t big[600] = {1};

	buffer_init(&b, 600);
	buffer_put(&b, big, 600);
	is_int(buffer_check(&b, &err), 0, "as many bytes as allowed");
	buffer_put_u8(&b, 1);
	is_int(buffer_check(&b, &err), -1, "one more is too many");
	is_err(&err, ERR_FAILED, "larger than 600", "says so");
	is_int(buffer_check(&b, &err), 0, "said once");
	buffer_consume(&b, 100);
	buffer_put(&b, big, 100);
	is_int(buffer_check(&b, &err), 0, "what was consumed can be used again");
	buffer_put_u8(&b, 1);
	buffer_put(&b, big, 0);
	ok(buffer_reserve(&b, 0) == NULL, "after a fault nothing is taken");
	buffer_rewind(&b, 10);
	is_int(buffer_len(&b), 10, "rewind takes back and forgets the fault");
	is_int(buffer_check(&b, &err), 0, "no fault");
	buffer_put(&b, big, SIZE_MAX);
	is_int(buffer_check(&b, &err), -1, "an absurd length is a fault, not an overflow");
	buffer_free(&b);
}

/* A long life of small puts and consumes: the same bytes come out as from a plain array. */
static void
churn(void)
{
	struct err err = {0};
	struct buffer b;
	uint32_t state = 1;
	uint8_t in = 0, out = 0;
	int same = 1;

	buffer_init(&b, 5000);
	for (int i = 0; i < 20000; i++) {
		size_t n;

		state = state * 1103515245 + 12345;
		n = (state >> 16) % 300;
		if ((state & 0x8000) != 0 && buffer_len(&b) + n <= 5000)
			while (n-- > 0)
				buffer_put_u8(&b, in++);
		else
			for (n = n < buffer_len(&b) ? n : buffer_len(&b); n > 0; n--) {
				same &= *buffer_data(&b) == out++;
				buffer_consume(&b, 1);
			}
	}
	ok(same && buffer_check(&b, &err) == 0, "bytes come out as they went in");
	ok(b.cap <= 5000, "within the maximum");
	buffer_free(&b);
}

static void
places(void)
{
	struct buffer b;

	buffer_init(&b, 1000);
	buffer_put(&b, "abcdef", 6);
	is_int(buffer_end(&b), 6, "the place behind the last byte");
	ok(buffer_at(&b, 0) == buffer_data(&b), "the first byte may be changed");
	ok(buffer_at(&b, 6) == NULL, "one that is not there may not");
	buffer_consume(&b, 2);
	ok(buffer_at(&b, 1) == NULL && *buffer_at(&b, 2) == 'c', "nor one that is gone; the rest has its place");
	buffer_seal(&b, 2);
	ok(buffer_at(&b, 3) == NULL && *buffer_at(&b, 4) == 'e', "nor one that is sealed");
	buffer_seal(&b, 1);
	ok(buffer_at(&b, 3) == NULL, "sealed for good");
	buffer_consume(&b, 4);
	is_int(buffer_end(&b), 6, "places count on when all is consumed");
	buffer_put(&b, "gh", 2);
	ok(buffer_at(&b, 5) == NULL && *buffer_at(&b, 6) == 'g', "and with what comes then");
	buffer_free(&b);
	buffer_put(&b, "i", 1);
	ok(buffer_at(&b, 7) == NULL && *buffer_at(&b, 8) == 'i', "and when it was freed");
	buffer_free(&b);
}

static int
starve(void *arg)
{
	struct err err = {0};
	struct buffer b;
	int rc;

	(void)arg;
	buffer_init(&b, 1 << 20);
	for (int i = 0; i < 10000; i++)
		buffer_put_u64(&b, (uint64_t)i);
	rc = buffer_check(&b, &err);
	buffer_free(&b);
	return rc != 0 && strcmp(err.sqlstate, "53200") != 0 ? 1 : rc;
}

int
main(void)
{
	integers();
	cap();
	churn();
	places();
	ok(failmalloc_each(starve, NULL) > 3, "each allocation may fail");
	return tap_done();
}
