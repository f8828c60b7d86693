# What the parts of `make bench` share: the report, medians of interleaved runs, the yardstick of the cipher.
package Bench;
use strict;
use warnings;
use Exporter 'import';
use IO::Handle;
use IPC::Run ();
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

our @EXPORT = qw(say_line say_part median compare figure timed cpu_seconds tree tree_cpu_seconds count_start cipher_page_seconds page_seconds page_counts crc32c_seconds $rounds $tmp);

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

# Interleaved rounds over named sides; the code returns a figure. Prints and returns the medians, by side. With an array of units the
# code returns as many figures, and so many hashes of medians are returned.
sub compare
{
	my ($units, $sides, $code) = @_;
	my @units = ref $units ? @$units : ($units);
	my (@figures, @medians);
	for my $round (0 .. $rounds) {    # round 0 warms up and is not counted
		# nobody is always the one who comes after the same
		for my $n (0 .. $#$sides) {
			my $side = $sides->[ ($n + $round) % @$sides ];
			my @got = $code->($side);
			next if $round == 0;
			push @{ $figures[$_]{$side} }, $got[$_] for 0 .. $#units;
		}
	}
	for my $i (0 .. $#units) {
		for my $side (@$sides) {
			my @s = sort { $a <=> $b } @{ $figures[$i]{$side} };
			$medians[$i]{$side} = median(@s);
			say_line('  %-12s median %10.3f %s   (least %.3f, most %.3f, %d runs)', $side, $medians[$i]{$side}, $units[$i], $s[0], $s[-1], scalar @s);
		}
	}
	return ref $units ? @medians : $medians[0];
}

sub timed
{
	my @command = @_;
	my $start = time();
	system(@command) == 0 or die "@command failed";
	return time() - $start;
}

# From /proc/PID/stat: parent, then ticks in user mode, in the kernel, and both of children that have ended and were waited for.
sub stat_of
{
	my ($pid) = @_;
	my $stat = -r "/proc/$pid/stat" ? eval { slurp_file("/proc/$pid/stat") } : undef;
	my ($after_name) = ($stat // '') =~ /\) (.*)/s or return;
	return (split(' ', $after_name))[ 1, 11 .. 14 ];
}

# Processor seconds of a process so far, without its children: on a busy machine they say more than the time that passed.
sub cpu_seconds
{
	my ($pid) = @_;
	my (undef, $user, $system) = stat_of($pid) or die "there is no process $pid";
	return ($user + $system) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# A process and its children that live.
sub tree
{
	my ($pid) = @_;
	return ($pid, grep { my ($parent) = stat_of($_); defined $parent && $parent == $pid } map { m{(\d+)$} } glob('/proc/[0-9]*'));
}

# Processor seconds of a process so far and of all its children, living and ended; and how many live. Given how many there are when
# nobody is connected, waits until there are no more, so that nobody ends while it adds up.
sub tree_cpu_seconds
{
	my ($pid, $children) = @_;
	my @living;
	for my $try (1 .. 400) {
		(undef, @living) = tree($pid);
		last if !defined $children || @living <= $children;
		Time::HiRes::sleep(0.05);
	}
	my $ticks = 0;
	for my $process ($pid, @living) {
		my (undef, @times) = stat_of($process);
		$ticks += $_ for @times;
	}
	return ($ticks / POSIX::sysconf(POSIX::_SC_CLK_TCK()), scalar @living);
}

# Start to count what these processes, and children that they make from now on, execute outside of the kernel. Returns a function that
# ends it and returns instructions and cycles; undef where the processor's counters are not to be had.
my $countable;
sub count_start
{
	my (@pids) = @_;
	$countable //= defined count_run('true');
	return if !$countable;
	my $file = "$tmp/counts.$pids[0]";
	my $perf = IPC::Run::start([ perf($file), '-p', join(',', @pids) ], '<', \undef, '>&', \my $out);
	Time::HiRes::sleep(0.5);    # perf does not say when it has begun
	return sub { $perf->signal('INT'); $perf->finish; return counts($file); };
}

# The same of a command, run to its end.
sub count_run
{
	my (@command) = @_;
	my $file = "$tmp/counts";
	unlink $file;
	eval { IPC::Run::run([ perf($file), '--', @command ], '<', \undef, '>&', \my $out) };
	return counts($file);
}

sub perf { my ($file) = @_; return ('perf', 'stat', '-x', ',', '-e', 'instructions:u', '-e', 'cycles:u', '-o', $file); }

sub counts
{
	my ($file) = @_;
	my @n = -e $file ? slurp_file($file) =~ /^(\d+),,(?:instructions|cycles):u/mg : ();
	return @n == 2 ? @n : ();
}

# Instructions and cycles of one page by the cipher that is used here, alone and in a loop (cipher_bench's name for it).
sub page_counts
{
	my ($what) = @_;
	my $pages = 300000;
	my ($begun, $done) = map { [ count_run("$ENV{WALCRYPT_PREFIX}/tests/cipher_bench", $what, $_) ] } 0, $pages;
	return map { ($done->[$_] - $begun->[$_]) / $pages } 0, 1;
}

# seconds of processor time that openssl needs for 8 KiB with this cipher
sub cipher_page_seconds
{
	my ($cipher) = @_;
	my ($last) = grep { /^AES/i } split(/\n/, `openssl speed -evp $cipher -bytes 8192 -seconds 2 2>/dev/null`);
	my ($kb) = $last =~ /([0-9.]+)k/ or die "openssl speed: $last";
	return 8192 / ($kb * 1000);
}

# The floor's unit: one page by openssl, of a relation or of WAL. Measured anew now, because clocks change while a bench runs.
sub page_seconds { return cipher_page_seconds($_[0] && $_[0] eq 'wal' ? 'aes-256-ctr' : 'aes-256-xts'); }

# Seconds of processor time for the CRC32C of a GB in pages, the fastest there is here (stream_bench).
sub crc32c_seconds
{
	my ($rate) = `$ENV{WALCRYPT_PREFIX}/tests/stream_bench 1 crc32c-8192` =~ /^crc32c-8192\s+([0-9.]+) GB\/s/m or die 'stream_bench';
	return 1.073741824 / $rate;
}

1;
