/* Addresses and networks: what is one, what is in it, what is loopback. */
#include "common/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "tests/unit/tap.h"

static struct sockaddr_storage
address(const char *text)
{
	struct sockaddr_storage s = {0};
	struct sockaddr_in *v4 = (void *)&s;
	struct sockaddr_in6 *v6 = (void *)&s;

	if (strcmp(text, "local") == 0)
		s.ss_family = AF_UNIX;
	else if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
		s.ss_family = AF_INET;
	else {
		inet_pton(AF_INET6, text, &v6->sin6_addr);
		s.ss_family = AF_INET6;
	}
	return s;
}

int
main(void)
{
	static const char *const bad[] = {"",
	                                  "ten",
	                                  "10.0.0",
	                                  "10.0.0.0/33",
	                                  "10.0.0.1/8",
	                                  "10.0.0.0/",
	                                  "10.0.0.0/x",
	                                  "10.0.0.0/-1",
	                                  "10.0.0.0/8 ",
	                                  "fd00::/129",
	                                  "fd00::1/64",
	                                  "::g",
	                                  "10.0.0.0/8/8",
	                                  "localhost",
	                                  "1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111"};
	static const struct {
		const char *range, *addr;
		bool has;
	} rows[] = {{"10.1.2.3", "10.1.2.3", true},
	            {"10.1.2.3", "10.1.2.4", false},
	            {"10.0.0.0/8", "10.255.0.1", true},
	            {"10.0.0.0/8", "11.0.0.1", false},
	            {"10.0.0.0/9", "10.127.0.1", true},
	            {"10.0.0.0/9", "10.128.0.1", false},
	            {"0.0.0.0/0", "1.2.3.4", true},
	            {"0.0.0.0/0", "fd00::1", false},
	            {"::/0", "fd00::1", true},
	            {"fd00::/8", "fdff::1", true},
	            {"fd00::/8", "fe00::1", false},
	            {"10.0.0.0/8", "::ffff:10.1.1.1", true},
	            {"0.0.0.0/0", "local", false},
	            {"local", "local", true},
	            {"local", "127.0.0.1", false},
	            {"::1", "::1", true},
	            {"::1", "::2", false}};
	static const struct {
		const char *addr;
		bool is;
	} loopbacks[] = {{"127.0.0.1", true}, {"127.255.0.9", true}, {"128.0.0.1", false},       {"::1", true},
	                 {"::", false},       {"local", true},       {"::ffff:127.0.0.1", true}, {"10.0.0.1", false}};
	static const struct {
		const char *text;
		bool is;
	} texts[] = {{"127.0.0.1", true}, {"localhost", true}, {"::1", true},
	             {"0.0.0.0", false},  {"*", false},        {"127.0.0.1.example.org", false}};
	struct address_range r;
	struct sockaddr_storage s;
	char text[ADDRESS_TEXT_LEN];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		is_int(address_range_parse(bad[i], &r), -1, "\"%s\" is none", bad[i]);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		s = address(rows[i].addr);
		ok(address_range_parse(rows[i].range, &r) == 0 && address_range_has(&r, (struct sockaddr *)&s) == rows[i].has,
		   "%s is %sin %s", rows[i].addr, rows[i].has ? "" : "not ", rows[i].range);
	}
	for (size_t i = 0; i < sizeof(loopbacks) / sizeof(loopbacks[0]); i++) {
		s = address(loopbacks[i].addr);
		ok(address_is_loopback((struct sockaddr *)&s) == loopbacks[i].is, "%s is %sloopback", loopbacks[i].addr,
		   loopbacks[i].is ? "" : "not ");
	}
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		ok(address_text_is_loopback(texts[i].text) == texts[i].is, "\"%s\" is %sloopback", texts[i].text,
		   texts[i].is ? "" : "not ");
	s = address("10.1.2.3");
	((struct sockaddr_in *)(void *)&s)->sin_port = htons(7);
	address_text((struct sockaddr *)&s, text, sizeof(text));
	is_str(text, "10.1.2.3:7", "IPv4 as text");
	s = address("fd00::1");
	((struct sockaddr_in6 *)(void *)&s)->sin6_port = htons(7);
	address_text((struct sockaddr *)&s, text, sizeof(text));
	is_str(text, "[fd00::1]:7", "IPv6 as text");
	s = address("local");
	address_text((struct sockaddr *)&s, text, sizeof(text));
	is_str(text, "local", "a Unix socket as text");
	return tap_done();
}
