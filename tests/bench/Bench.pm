# What the parts of `make bench` share: the report, medians of interleaved runs, the yardstick of the cipher.
package Bench;
use strict;
use warnings;
use Exporter 'import';
use IO::Handle;
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

our @EXPORT = qw(say_line say_part median compare figure timed cpu_seconds cipher_page_seconds page_seconds $rounds $tmp);

our $rounds = $ENV{BENCH_ROUNDS} // 5;
our $tmp;
INIT { $tmp = $PostgreSQL::Test::Utils::tmp_check; }    # which that module's own INIT sets
my $part = '';

open(my $report, '>>', $ENV{BENCH_REPORT}) or die;
$report->autoflush(1);
sub say_line { printf $report "%s\n", sprintf(shift, @_); return; }

# A part's heading; its figures are drawn under that name.
sub say_part { $part = sprintf(shift, @_); say_line(''); say_line('%s', $part); return; }

sub median { my @s = sort { $a <=> $b } @_; return @s % 2 ? $s[ $#s / 2 ] : ($s[ @s / 2 - 1 ] + $s[ @s / 2 ]) / 2; }

# One ratio of this part into the figures that are drawn: tab-separated part, label, ratio, mark ('' for none).
sub figure
{
	my ($label, $ratio, $mark) = @_;
	append_to_file("$ENV{BENCH_OUT}/ratios.tsv", join("\t", $part, $label, sprintf('%.3f', $ratio), $mark // '') . "\n");
	return;
}

# Interleaved rounds over named sides; the code returns a figure. Prints and returns the medians.
sub compare
{
	my ($unit, $sides, $code) = @_;
	my %figures;
	for my $round (0 .. $rounds) {    # round 0 warms up and is not counted
		# nobody is always the one who comes after the same
		for my $n (0 .. $#$sides) {
			my $side = $sides->[ ($n + $round) % @$sides ];
			my $figure = $code->($side);
			push @{ $figures{$side} }, $figure if $round > 0;
		}
	}
	my %median = map { $_ => median(@{ $figures{$_} }) } @$sides;
	for my $side (@$sides) {
		my @s = sort { $a <=> $b } @{ $figures{$side} };
		say_line('  %-22s median %10.3f %s   (least %.3f, most %.3f, %d runs)', $side, $median{$side}, $unit, $s[0], $s[-1], scalar @s);
	}
	return \%median;
}

sub timed
{
	my @command = @_;
	my $start = time();
	system(@command) == 0 or die "@command failed";
	return time() - $start;
}

# Processor seconds of a process so far, without its children: on a busy machine they say more than the time that passed.
sub cpu_seconds
{
	my ($pid) = @_;
	my ($after_name) = slurp_file("/proc/$pid/stat") =~ /\) (.*)/s;
	my @stat = split(' ', $after_name);
	return ($stat[11] + $stat[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# seconds of processor time that openssl needs for 8 KiB with this cipher
sub cipher_page_seconds
{
	my ($cipher) = @_;
	my ($last) = grep { /^AES/i } split(/\n/, `openssl speed -evp $cipher -bytes 8192 -seconds 2 2>/dev/null`);
	my ($kb) = $last =~ /([0-9.]+)k/ or die "openssl speed: $last";
	return 8192 / ($kb * 1000);
}

# The floor's unit: one page by openssl's AES-256-XTS. Measured anew now, because clocks change while a bench runs.
sub page_seconds { return cipher_page_seconds('aes-256-xts'); }

1;
