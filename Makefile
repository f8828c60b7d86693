# walcrypt: `make` builds, `make demo` shows, `make check` tests (docs/testing.md), `make install` installs, `make deb` packs. On a bare Debian 12 make and
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
SHIMS := postgres initdb pg_basebackup pg_checksums pg_controldata pg_ctl pg_isready pg_resetwal pg_rewind pg_upgrade pg_verifybackup pg_waldump

# As many jobs as processors, unless make was told how many.
JOBS = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

MANUALS := walcrypt-proxy.8 walcrypt-ctl.1 walcrypt.ini.5 walcrypt-storage.7
PROGRAMS := $(B)/bin/walcrypt-proxy $(B)/bin/walcrypt-ctl $(B)/lib/walcrypt/libwalcrypt-storage.so

.PHONY: all programs tests fuzzers demo docker-demo check check-tap check-postgres check-unit check-fuzz check-docs soak bench lint install install-tree uninstall deb manuals clean packages
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
CTL_TESTED := $(patsubst %,$(B)/obj/ctl/%.o,json_record reencrypt_spare switchover/controldata switchover/logbook switchover/proof switchover/report switchover/svg \
	switchover/syncnames)
$(B)/tests/%: $(B)/obj/tests/unit/%.o $(UNIT_LIB) $(CTL_TESTED) $(REPLICATION) $(KEYMGR) $(CORE) $(COMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(WRAP) -o $@ $^ -lcurl -lcrypto -ljansson -lisal

# of the proxy, beside doubles of what it calls
$(B)/tests/keylist_test: $(B)/obj/proxy/keylist.o
$(B)/tests/standbys_test: $(B)/obj/proxy/standbys.o $(B)/obj/proxy/locked.o

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
$(B)/obj/keymgr/pkcs11_task.o: BASE += -isystem /usr/include/p11-kit-1

# PostgreSQL's own page checksum: the one server header the core includes.
$(B)/obj/walcrypt/page_checksum.o: BASE += -isystem $(PG_INCLUDE)
$(B)/obj/walcrypt/page_checksum.o: CFLAGS += -O3

# The page that the proxy shows is part of the program.
$(B)/obj/proxy/page.o: proxy/page.html

# Manual pages say what the programs and docs/ say.
manuals: $(B)/man/made
$(B)/man/made: scripts/manual debian/changelog $(B)/bin/walcrypt-proxy $(B)/bin/walcrypt-ctl $(wildcard docs/*.md)
	@mkdir -p $(@D)
	$(call say,MAN,$(@D))
	$(Q)scripts/manual $(B)/bin $(@D) && touch $@

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
# The compose topology of docker/, from the images to the reports of two rotations (docs/docker.md). Needs a Docker engine that runs.
docker-demo:
	@scripts/packages docker
	@docker/demo
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
# Everything that can fail, under load, for an hour: docs/reliability.md. SOAK_SECONDS=600 for less, SOAK_SEED=1 for the same again.
soak:
	@scripts/packages check
	@scripts/openbao
	@$(MAKE) --no-print-directory $(JOBS) programs tests
	@SOAK_SECONDS=$${SOAK_SECONDS:-3600} scripts/staged tests/run tests/t/650_soak.pl
bench:
	@scripts/packages bench
	@$(MAKE) --no-print-directory programs tests
	@tests/bench/limited scripts/staged tests/bench/run
lint:
	@scripts/packages check
	@scripts/lint

install: all
	@$(MAKE) --no-print-directory install-tree

# The programs' own folders below PREFIX, all of whose contents come from here.
OWN := lib/walcrypt libexec/walcrypt share/walcrypt
TREE = $(DESTDIR)$(PREFIX)
# Samples name the place where things are.
PLACED = sed 's,/usr/local/\(bin\|lib/walcrypt\|libexec/walcrypt\|share/walcrypt\),$(PREFIX)/\1,g'
install-tree: programs manuals
	install -d $(TREE)/bin $(TREE)/lib/walcrypt $(TREE)/libexec/walcrypt/bin $(TREE)/share/walcrypt/external $(TREE)/share/walcrypt/commands $(TREE)/share/walcrypt/prometheus $(TREE)/share/walcrypt/grafana $(TREE)/share/walcrypt/patroni $(TREE)/share/walcrypt/pgbackrest $(TREE)/share/walcrypt/pgbouncer $(TREE)/share/walcrypt/nodes
	install -m 755 $(B)/bin/walcrypt-proxy $(B)/bin/walcrypt-ctl $(TREE)/bin
	install -m 755 $(B)/lib/walcrypt/libwalcrypt-storage.so $(TREE)/lib/walcrypt
	install -m 755 scripts/shim $(TREE)/libexec/walcrypt
	for program in $(SHIMS); do ln -sf ../shim $(TREE)/libexec/walcrypt/bin/$$program; done
	for sample in walcrypt.ini environment walcrypt-proxy.service postgresql-walcrypt.conf; do \
		$(PLACED) conf/$$sample >$(TREE)/share/walcrypt/$$sample.sample && chmod 644 $(TREE)/share/walcrypt/$$sample.sample || exit 1; done
	install -m 755 conf/external/keeper.pl $(TREE)/share/walcrypt/external
	install -m 755 conf/commands/*.sh $(TREE)/share/walcrypt/commands
	install -m 644 conf/prometheus/*.yml $(TREE)/share/walcrypt/prometheus
	install -m 644 conf/grafana/walcrypt.json $(TREE)/share/walcrypt/grafana
	$(PLACED) conf/patroni/patroni.yml >$(TREE)/share/walcrypt/patroni/patroni.yml && chmod 644 $(TREE)/share/walcrypt/patroni/patroni.yml
	install -m 755 conf/patroni/walcrypt-pre-promote conf/patroni/walcrypt-rotate $(TREE)/share/walcrypt/patroni
	install -m 644 conf/pgbackrest/pgbackrest.conf $(TREE)/share/walcrypt/pgbackrest
	install -m 755 conf/pgbouncer/walcrypt-hook $(TREE)/share/walcrypt/pgbouncer
	$(PLACED) conf/nodes/walcrypt-keys >$(TREE)/share/walcrypt/nodes/walcrypt-keys && chmod 755 $(TREE)/share/walcrypt/nodes/walcrypt-keys
	install -d $(TREE)/share/bash-completion/completions
	for program in walcrypt-ctl walcrypt-proxy; do install -m 644 conf/completion/walcrypt $(TREE)/share/bash-completion/completions/$$program; done
	for page in $(MANUALS); do install -D -m 644 -t $(TREE)/share/man/man$${page##*.} $(B)/man/$$page || exit 1; done

# Configuration and keys are no part of what was installed.
uninstall:
	rm -f $(TREE)/bin/walcrypt-proxy $(TREE)/bin/walcrypt-ctl $(foreach page,$(MANUALS),$(TREE)/share/man/man$(subst .,,$(suffix $(page)))/$(page))
	rm -f $(TREE)/share/bash-completion/completions/walcrypt-proxy $(TREE)/share/bash-completion/completions/walcrypt-ctl
	rm -rf $(addprefix $(TREE)/,$(OWN))

# Debian packages, into build-deb. They are built as everywhere in Debian (debian/rules), in a copy of the tree.
DEB ?= build-deb
deb:
	@scripts/packages deb
	@scripts/deb $(DEB)

clean:
	rm -rf $(B) build-*

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
