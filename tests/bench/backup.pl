# Base backups through the proxy: against HAProxy and no proxy at all, and against stunnel with TLS.
use strict;
use warnings;
use Bench;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Ways;

my $gigabytes = $ENV{BENCH_GB} // 2;
my %cpu;
ways_start(tls => 1);
$red->command_ok([ 'pgbench', '-q', '-i', '-s', int($gigabytes * 1024 / 15) + 1, 'postgres' ], 'fill');
$red->safe_psql('postgres', 'CHECKPOINT');
my $mb = $red->safe_psql('postgres', 'SELECT sum(pg_database_size(oid)) / 1024 / 1024 FROM pg_database');

sub fetch
{
	my ($way, $options, $to) = @_;
	my $pid = ways_pid($way);
	my $before = defined $pid ? cpu_seconds($pid) : 0;
	my $s = timed('sh', '-c', "pg_basebackup -X none --checkpoint=fast $options -d '" . ways_connstr($way) . "' 2>>$tmp/bench.err $to");
	push @{ $cpu{$way} }, (cpu_seconds($pid) - $before) / $mb * 1024 if defined $pid;
	return $s;
}

# What the medians say against the yardstick.
sub say_ratios
{
	my ($m, $ours, $yard, $mark) = @_;
	say_line('  ratio to %s %.3f%s', $yard, $m->{$ours} / $m->{$yard}, $m->{direct} ? sprintf(', to direct %.3f', $m->{$ours} / $m->{direct}) : '');
	figure("time, $ours/$yard", $m->{$ours} / $m->{$yard}, $mark);
	my %s = map { $_ => median(@{ $cpu{$_} }[ 1 .. $rounds ]) } $yard, $ours;
	my ($cipher, $check) = (page_seconds() * 131072, crc32c_seconds());
	# each page: encrypted, its new checksum, and the manifest's CRC32C
	my $floor = $cipher + 2 * $check;
	say_line('  processor seconds for a GB: %s %.2f, walcrypt %.2f; floor: cipher %.2f + checksum and CRC32C %.2f = %.2f; (walcrypt - %s)/floor %.2f', $yard, $s{$yard}, $s{$ours},
		$cipher, 2 * $check, $floor, $yard, ($s{$ours} - $s{$yard}) / $floor);
	figure("processor time, (walcrypt - $yard)/floor", ($s{$ours} - $s{$yard}) / $floor, 1.5);
	%cpu = ();
	return;
}

my %only = map { $_ => 1 } split(' ', $ENV{BENCH_ONLY});
if ($only{backup}) {
	say_part('base backup of %.2f GB, tar to /dev/null, CRC32C manifest', $mb / 1024);
	say_ratios(compare('s', [qw(direct haproxy walcrypt)], sub { fetch($_[0], '-Ft -D -', '>/dev/null') }), 'walcrypt', 'haproxy', 1.10);
	say_line('  resident memory of the proxy at its highest %d MiB', (slurp_file('/proc/' . $proxy->pid . '/status') =~ /VmHWM:\s+(\d+)/)[0] / 1024);
	say_part('base backup of %.2f GB, plain format to disk, --no-sync', $mb / 1024);
	say_ratios(compare('s', [qw(direct haproxy walcrypt)], sub {
		my $s = fetch($_[0], "--no-sync -D $tmp/bk", '');
		system('rm', '-rf', "$tmp/bk");
		return $s;
	}), 'walcrypt', 'haproxy', 1.10);
}
if ($only{tls}) {
	say_part('base backup of %.2f GB with TLS to the client, tar to /dev/null, CRC32C manifest', $mb / 1024);
	say_ratios(compare('s', [qw(stunnel walcrypt-tls)], sub { fetch($_[0], '-Ft -D -', '>/dev/null') }), 'walcrypt-tls', 'stunnel', 1.15);
}
ways_stop();
ok(1, 'measured');
done_testing();
