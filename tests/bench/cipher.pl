# The ciphers alone: cipher_bench against `openssl speed`; and what the proxy does with a stream.
use strict;
use warnings;
use Bench;
use PostgreSQL::Test::Utils;
use Test::More;

say_part('page and WAL-page cipher, 8 KiB pages, one core');
my %figures;
for my $round (1 .. $rounds) {
	push @{ $figures{openssl} }, 8192 / page_seconds() / 1e9;
	for (split(/\n/, `$ENV{WALCRYPT_PREFIX}/tests/cipher_bench`)) {
		push @{ $figures{"$1"} }, $2 if /^(\S+)\s+([0-9.]+) GB\/s/;
	}
}
my $yard = median(@{ $figures{openssl} });
for my $what (sort keys %figures) {
	my $gb = median(@{ $figures{$what} });
	say_line('  %-22s %6.2f GB/s   ratio to openssl speed %.3f', $what, $gb, $gb / $yard);
	figure($what, $gb / $yard, $what =~ /^(wal-)?page-(en|de)crypt/ ? 0.9 : '') if $what !~ /checksum|scan|openssl/;
}
say_part('a stream of WAL in the proxy, without system calls, one core');
my %stream;
for my $round (1 .. $rounds) {
	for (split(/\n/, `$ENV{WALCRYPT_PREFIX}/tests/stream_bench`)) {
		push @{ $stream{"$1"} }, $2 if /^(\S+)\s+([0-9.]+) GB\/s/;
	}
}
say_line('  %-22s %6.2f GB/s', $_, median(@{ $stream{$_} })) for sort keys %stream;
ok(1, 'measured');
done_testing();
