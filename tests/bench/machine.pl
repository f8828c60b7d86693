# What the figures depend on: the processor and its cipher's floor.
use strict;
use warnings;
use Bench;
use PostgreSQL::Test::Utils;
use Test::More;

my ($cpu) = slurp_file('/proc/cpuinfo') =~ /^model name\s*:\s*(.*)$/m;
my $vaes = slurp_file('/proc/cpuinfo') =~ /\bvaes\b/ ? 'has VAES' : 'no VAES';
chomp(my $cores = `nproc`);
chomp(my $openssl = `openssl version`);
my $xts = page_seconds();
say_line('machine: %s (%s), %s cores; %s (its XTS does not use VAES before 3.5)', $cpu, $vaes, $cores, $openssl);
say_line('floor: openssl speed -evp aes-256-xts -bytes 8192: %.2f GB/s, %.2f us a page', 8192 / $xts / 1e9, $xts * 1e6);
ok(1, 'measured');
done_testing();
