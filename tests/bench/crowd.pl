# The proxy's memory with many standbys that wait, and with many base backups at once.
use strict;
use warnings;
use Bench;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;
use Ways;

my ($idle, $backups) = (100, 8);
ways_start(conf => "max_wal_senders = 120\nmax_connections = 20\n");
$red->command_ok([ 'pgbench', '-q', '-i', '-s', 20, 'postgres' ], 'fill');
$red->safe_psql('postgres', 'CHECKPOINT');

say_part('resident memory of the proxy, MiB');
my $before = rss_kib($proxy->pid);
my $lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
my @standbys = map {
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'blue', replication => 'true', application_name => "idle_$_");
	$c->until('Z');
	$c->send('Q', "START_REPLICATION PHYSICAL $lsn TIMELINE 1\0");
	$c->until('W');
	$c;
} 1 .. $idle;
# each of them has had some WAL, too
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 10000); SELECT pg_switch_wal()');
$_->until('d') for @standbys;
my $many = rss_kib($proxy->pid);
say_line('  before %.1f; %d standbys that wait %.1f', $before / 1024, $idle, $many / 1024);
figure("$idle idle standbys, of 150 MiB", $many / 1024 / 150, 1.0);
close $_->{socket} for @standbys;

my @pids = map {
	my $pid = fork() // die;
	exec('sh', '-c', "pg_basebackup -X none --checkpoint=fast -Ft -D - -d '" . ways_connstr('walcrypt') . "' >/dev/null 2>>$tmp/bench.err") if $pid == 0;
	$pid;
} 1 .. $backups;
for my $pid (@pids) { waitpid($pid, 0); die 'pg_basebackup failed' if $?; }
my ($high) = slurp_file('/proc/' . $proxy->pid . '/status') =~ /VmHWM:\s+(\d+)/;
say_line('  %d base backups at once, at the highest of both %.1f', $backups, $high / 1024);
figure("$backups base backups at once, of 128 MiB", $high / 1024 / 128, 1.0);
ways_stop();
ok(1, 'measured');
done_testing();
