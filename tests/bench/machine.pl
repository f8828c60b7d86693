# What the figures depend on: the processor, its cipher's floor, and TCP, which the proxies' benches go over on the loopback.
use strict;
use warnings;
use Bench;
use PostgreSQL::Test::Utils;
use Test::More;

my ($cpu) = slurp_file('/proc/cpuinfo') =~ /^model name\s*:\s*(.*)$/m;
my $vaes = slurp_file('/proc/cpuinfo') =~ /\bvaes\b/ ? 'has VAES' : 'no VAES';
chomp(my $cores = `nproc`);
chomp(my $openssl = `openssl version`);
chomp(my $tcp = slurp_file('/proc/sys/net/ipv4/tcp_congestion_control'));
my $xts = page_seconds();
say_line('machine: %s (%s), %s cores; %s (its XTS does not use VAES before 3.5); TCP by %s', $cpu, $vaes, $cores, $openssl, $tcp);
say_line('floor: openssl speed -evp aes-256-xts -bytes 8192: %.2f GB/s, %.2f us a page', 8192 / $xts / 1e9, $xts * 1e6);
ok(1, 'measured');
done_testing();
