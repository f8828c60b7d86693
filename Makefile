# walcrypt: `make` builds, `make demo` shows, `make check` tests (docs/testing.md), `make install` installs. On a bare Debian 12 make and
# a shell are enough: each target installs the packages that it needs.
PREFIX ?= /usr/local
DESTDIR ?=
B ?= build
PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
CFLAGS ?= -O2 -g
SANITIZE ?=
WERROR ?=

BASE := -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -fno-strict-aliasing -fPIC -ffunction-sections -fdata-sections -pthread -MMD -MP -I.
HARDEN := -fstack-protector-strong -D_FORTIFY_SOURCE=2
ifneq ($(SANITIZE),)
HARDEN := -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all
endif
ALL_CFLAGS = $(BASE) $(HARDEN) $(WERROR) $(CPPFLAGS) $(CFLAGS)
ALL_LDFLAGS = -pthread -Wl,-z,relro,-z,now -Wl,--gc-sections $(if $(SANITIZE),-fsanitize=$(SANITIZE)) $(LDFLAGS)
PG_INCLUDE = $(shell $(PG_CONFIG) --includedir-server)

comma := ,
# What is being made in a word; V=1 shows the commands.
V ?=
Q := $(if $(V),,@)
say = $(if $(V)$(findstring s,$(firstword -$(MAKEFLAGS))),@:,@printf '  %-5s %s\n' $(1) $(2))

src = $(patsubst %.c,$(B)/obj/%.o,$(sort $(wildcard $(1)/*.c)))
COMMON := $(call src,common)
# what a preloaded library has no use for: key servers are the helper's business
LAYER_COMMON := $(filter-out %/curl.o %/http.o %/tlslink.o,$(COMMON))
CORE := $(call src,walcrypt)
KEYMGR := $(call src,keymgr)
REPLICATION := $(call src,replication)
PROXY := $(call src,proxy)
CTL := $(call src,ctl) $(call src,ctl/switchover) $(call src,ctl/doctor)
STORAGE := $(call src,storage)
UNIT_LIB := $(filter-out %_test.o,$(call src,tests/unit))
UNIT := $(patsubst tests/unit/%.c,$(B)/tests/%,$(sort $(wildcard tests/unit/*_test.c)))
TOOLS := $(patsubst tests/tools/%.c,$(B)/tests/%,$(sort $(wildcard tests/tools/*.c)))
BENCH := $(patsubst tests/bench/%.c,$(B)/tests/%,$(sort $(wildcard tests/bench/*.c)))

# Stock programs that run under the storage layer from libexec/walcrypt/bin, for those who want a bin directory.
SHIMS := postgres initdb pg_ctl pg_checksums pg_controldata pg_resetwal pg_rewind pg_upgrade pg_verifybackup pg_waldump

# As many jobs as processors, unless make was told how many.
JOBS = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

PROGRAMS := $(B)/bin/walcrypt-proxy $(B)/bin/walcrypt-ctl $(B)/lib/walcrypt/libwalcrypt-storage.so

.PHONY: all programs tests fuzzers demo check check-tap check-postgres check-unit check-fuzz check-docs bench lint install clean packages
all: packages
	@$(MAKE) --no-print-directory $(JOBS) programs
programs: $(PROGRAMS)

# Debian packages by name, only when something is missing.
packages:
	@scripts/packages build

$(B)/bin/walcrypt-proxy: $(PROXY) $(REPLICATION) $(KEYMGR) $(CORE) $(COMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ -lev -lpq -lcurl -lmicrohttpd -lssl -lcrypto -ljansson -lisal -lsystemd

$(B)/bin/walcrypt-ctl: $(CTL) $(REPLICATION) $(KEYMGR) $(CORE) $(COMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ -lpq -lcurl -lcrypto -ljansson -lisal

# A private libcrypto with hidden symbols: a server that brings another OpenSSL must not meet ours.
$(B)/lib/walcrypt/libwalcrypt-storage.so: $(STORAGE) $(CORE) $(LAYER_COMMON) storage/exports.map
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -shared -Wl,-Bsymbolic -Wl,--exclude-libs,ALL -Wl,--version-script=storage/exports.map \
		-o $@ $(STORAGE) $(CORE) $(LAYER_COMMON) -l:libcrypto.a -lisal -ldl

# tests/unit/failmalloc.h: unit tests can make each of our allocations fail.
WRAP := $(patsubst %,-Wl$(comma)--wrap=%,malloc calloc realloc strdup strndup secmem_alloc)
# the parts of walcrypt-ctl that have unit tests
CTL_TESTED := $(patsubst %,$(B)/obj/ctl/switchover/%.o,controldata logbook proof syncnames)
$(B)/tests/%: $(B)/obj/tests/unit/%.o $(UNIT_LIB) $(CTL_TESTED) $(REPLICATION) $(KEYMGR) $(CORE) $(COMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(WRAP) -o $@ $^ -lcurl -lcrypto -ljansson -lisal

$(B)/tests/%: $(B)/obj/tests/bench/%.o $(B)/obj/tests/unit/walmake.o $(REPLICATION) $(KEYMGR) $(CORE) $(COMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ -lcurl -lcrypto -ljansson -lisal

# What the TAP tests call and users have no command for.
$(B)/tests/%: $(B)/obj/tests/tools/%.o $(REPLICATION) $(KEYMGR) $(CORE) $(COMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ -lcurl -lcrypto -ljansson -lisal

# The header of PKCS #11; modules are loaded when they are asked for.
$(B)/obj/keymgr/pkcs11.o: BASE += -isystem /usr/include/p11-kit-1

# PostgreSQL's own page checksum: the one server header the core includes.
$(B)/obj/walcrypt/page_checksum.o: BASE += -isystem $(PG_INCLUDE)
$(B)/obj/walcrypt/page_checksum.o: CFLAGS += -O3

# The page that the proxy shows is part of the program.
$(B)/obj/proxy/page.o: proxy/page.html

$(B)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

# Everything that a test run needs besides the programs: unit tests, benchmarks, tools.
tests: $(UNIT) $(BENCH) $(TOOLS)
FUZZ := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(sort $(wildcard tests/fuzz/*_fuzz.c)))
fuzzers: $(FUZZ)
# Built with clang: make B=build-fuzz CC=clang SANITIZE=fuzzer-no-link,address,undefined fuzzers
$(B)/fuzz/%: $(B)/obj/tests/fuzz/%.o $(REPLICATION) $(KEYMGR) $(CORE) $(COMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer,address -o $@ $^ -lcurl -lcrypto -ljansson -lisal

demo:
	@scripts/packages demo
	@$(MAKE) --no-print-directory all
	@scripts/staged scripts/demo
check:
	@scripts/packages check
	@scripts/postgres
	@scripts/check
# Some files of tests/t only, e.g. make check-tap TESTS="tests/t/001_main.pl"
check-tap:
	@scripts/packages check
	@scripts/postgres
	@scripts/check $(TESTS)
# PostgreSQL's own suites with every cluster encrypted, all that tests/postgres/README.md tells of; SUITES="recovery/001_stream_rep.pl" for some.
check-postgres:
	@scripts/packages check
	@$(MAKE) --no-print-directory $(JOBS) programs
	@tests/postgres/all $(SUITES)
check-unit:
	@scripts/packages check
	@$(MAKE) --no-print-directory $(JOBS) tests
	prove --timer -e '' $(UNIT)
# Each fuzz target for a minute, two at a time: about a quarter of an hour. FUZZ_SECONDS=600 TARGETS="tar scram" for more of some.
check-fuzz:
	@scripts/packages check
	@scripts/check-fuzz $(TARGETS)
check-docs:
	@scripts/packages check
	@$(MAKE) --no-print-directory $(JOBS) programs
	@scripts/check-docs
bench:
	@scripts/packages bench
	@$(MAKE) --no-print-directory programs tests
	@scripts/staged tests/bench/run
lint:
	@scripts/packages check
	@scripts/lint

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/walcrypt $(DESTDIR)$(PREFIX)/libexec/walcrypt/bin $(DESTDIR)$(PREFIX)/share/walcrypt/external $(DESTDIR)$(PREFIX)/share/walcrypt/commands
	install -m 755 $(B)/bin/walcrypt-proxy $(B)/bin/walcrypt-ctl $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(B)/lib/walcrypt/libwalcrypt-storage.so $(DESTDIR)$(PREFIX)/lib/walcrypt
	install -m 755 scripts/shim $(DESTDIR)$(PREFIX)/libexec/walcrypt
	for program in $(SHIMS); do ln -sf ../shim $(DESTDIR)$(PREFIX)/libexec/walcrypt/bin/$$program; done
	install -m 644 conf/walcrypt.ini $(DESTDIR)$(PREFIX)/share/walcrypt/walcrypt.ini.sample
	install -m 755 conf/external/keeper.pl $(DESTDIR)$(PREFIX)/share/walcrypt/external
	install -m 755 conf/commands/*.sh $(DESTDIR)$(PREFIX)/share/walcrypt/commands
	install -m 644 conf/environment $(DESTDIR)$(PREFIX)/share/walcrypt/environment.sample
	install -m 644 conf/walcrypt-proxy.service $(DESTDIR)$(PREFIX)/share/walcrypt/walcrypt-proxy.service.sample
	install -m 644 conf/postgresql-walcrypt.conf $(DESTDIR)$(PREFIX)/share/walcrypt/postgresql-walcrypt.conf.sample

clean:
	rm -rf $(B) build-*

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
