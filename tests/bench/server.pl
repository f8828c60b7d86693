# A server on the storage layer against a plain one: transactions, scans, loading. Both are up, rounds take turns.
use strict;
use warnings;
use Bench;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use Walcrypt;

my $seconds   = $ENV{BENCH_TPCB_SECONDS} // 30;
my $gigabytes = $ENV{BENCH_SCAN_GB} // 1;
my %only      = map { $_ => 1 } split(' ', $ENV{BENCH_ONLY} // 'tpcb select scan cold load wal');
my $scale     = 50;

my $kek  = Walcrypt::kek_file("$tmp/bench_kek");
my %node = (plain => Walcrypt::Node->new('plain'), encrypted => Walcrypt::Node->new('encrypted'));
my @sides = qw(plain encrypted);
$node{plain}->init(allows_streaming => 1, extra => ['-k']);
$node{encrypted}->init_encrypted("file:$kek", allows_streaming => 1);
my $rows = int($gigabytes * 131072 * 61);    # 61 rows of pgbench_accounts' shape fill a page
for my $node (values %node) {
	$node->append_conf('postgresql.conf', "shared_buffers = 256MB\nfsync = on\nmax_wal_size = 8GB\nmax_connections = 50\nlog_statement = none\n"
		. "autovacuum = off\ncheckpoint_timeout = 1h\nmax_parallel_workers_per_gather = 0\nsynchronize_seqscans = off\n");
	$node->start;
	$node->command_ok([ 'pgbench', '-q', '-i', '-s', $scale, 'postgres' ], 'fill');
	$node->safe_psql('postgres', "CREATE TABLE big AS SELECT i AS aid, 1 AS bid, 0 AS abalance, ''::char(84) AS filler FROM generate_series(1, $rows) i") if $only{scan} || $only{cold} || $only{load};
	$node->safe_psql('postgres', 'VACUUM ANALYZE; CHECKPOINT');
}
my $big_pages = $only{scan} || $only{cold} || $only{load} ? $node{plain}->safe_psql('postgres', "SELECT pg_relation_size('big') / 8192") : 0;

# The time of the last of these statements in seconds: one process's processor time, or what the clock says.
sub statement_seconds
{
	my ($side, $sql, $clock) = @_;
	my $cpu = "SELECT 'cpu', (s)[14]::int + (s)[15]::int FROM (SELECT string_to_array(pg_read_file('/proc/self/stat'), ' ') AS s) x";
	my $out = $node{$side}->safe_psql('postgres', "$cpu;\n\\timing on\n$sql;\n\\timing off\n$cpu");
	my @ms    = $out =~ /^Time: ([0-9.]+) ms/mg or die "no time in: $out";
	my @ticks = $out =~ /^cpu\|(\d+)/mg;
	return $clock ? $ms[-1] / 1000 : ($ticks[1] - $ticks[0]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# What was added over plain, in units of what openssl alone needs for the pages.
sub say_floor
{
	my ($m, $pages, $mark) = @_;
	my $floor = $pages * page_seconds();
	say_line('  ratio encrypted to plain %.3f; floor: %d pages x openssl = %.3f s; added %.3f s, added/floor %.2f', $m->{encrypted} / $m->{plain}, $pages, $floor,
		$m->{encrypted} - $m->{plain}, ($m->{encrypted} - $m->{plain}) / $floor);
	figure('time, encrypted/plain', $m->{encrypted} / $m->{plain}, $mark);
	figure('added/floor', ($m->{encrypted} - $m->{plain}) / $floor, $mark ? 1.25 : '');
	return;
}

my $counts = "SELECT (SELECT sum(blks_read) FROM pg_stat_database) + (SELECT buffers_checkpoint + buffers_clean + buffers_backend FROM pg_stat_bgwriter)"
	. " + (SELECT greatest(wal_write, wal_bytes / 8192) FROM pg_stat_wal)";

sub pgbench
{
	my ($options, $mark) = @_;
	my ($pages, $ran) = (0, 0);
	my $tps = compare('tps', \@sides, sub {
		my ($side) = @_;
		my $before = $node{$side}->safe_psql('postgres', $counts);
		my %env = $node{$side}->_get_env;
		local %ENV = %env;
		my ($tps) = `pgbench -n -c 8 -j 2 -T $seconds $options postgres 2>/dev/null` =~ /^tps = ([0-9.]+)/m or die 'pgbench';
		if ($side eq 'encrypted') {
			sleep(1);    # the counters arrive
			$pages += $node{$side}->safe_psql('postgres', $counts) - $before;
			$ran += $seconds;
		}
		return $tps;
	});
	my $ratio = $tps->{encrypted} / $tps->{plain};
	say_line('  ratio encrypted to plain %.3f; floor: %.0f pages a second x openssl = %.2f %% of one core', $ratio, $pages / $ran, 100 * $pages / $ran * page_seconds());
	figure('rate, encrypted/plain', $ratio, $mark);
	return;
}

if ($only{tpcb}) {
	say_part("pgbench TPC-B, scale $scale, 8 clients, $seconds s a run, fsync on");
	pgbench('', 0.97);
}
if ($only{select}) {
	say_part("pgbench SELECT-only, scale $scale, 8 clients, $seconds s a run");
	pgbench('-S', 0.98);
}
if ($only{scan}) {
	say_part('sequential scan of %.2f GB in the operating system\'s cache, one process', $big_pages / 131072);
	say_floor(compare('s', \@sides, sub { statement_seconds($_[0], 'SELECT count(*) FROM big') }), $big_pages, 1.5);
}
if ($only{cold}) {
	say_part('sequential scan of %.2f GB from the disk (page cache dropped before)', $big_pages / 131072);
	say_floor(compare('s', \@sides, sub {
		my ($side) = @_;
		my $file = $node{$side}->data_dir . '/' . $node{$side}->safe_psql('postgres', "SELECT pg_relation_filepath('big')");
		system("for f in $file $file.[0-9]*; do test ! -e \$f || dd if=\$f iflag=nocache count=0 status=none; done") == 0 or die;
		statement_seconds($side, 'SELECT count(*) FROM big', 1);
	}), $big_pages, 1.0);
}
if ($only{load}) {
	say_part('CREATE TABLE AS of %.2f GB, WAL logged', $big_pages / 131072);
	# each page is read, written to WAL and written to its file
	say_floor(compare('s', \@sides, sub {
		my ($side) = @_;
		my $s = statement_seconds($side, 'CREATE TABLE copied AS SELECT * FROM big');
		$node{$side}->safe_psql('postgres', 'DROP TABLE copied; CHECKPOINT');
		return $s;
	}), 3 * $big_pages, 1.25);
}
if ($only{wal}) {
	say_part('WAL-only load: 10,000 logical messages of 64 kB, asynchronous commit');
	say_floor(compare('s', \@sides, sub {
		my ($side) = @_;
		my $s = statement_seconds($side, "SET synchronous_commit = off; SELECT count(pg_logical_emit_message(false, 'bench', repeat('x', 65536))) FROM generate_series(1, 10000)");
		$node{$side}->safe_psql('postgres', 'CHECKPOINT');
		return $s;
	}), 10000 * 8);
}
$_->stop for values %node;
ok(1, 'measured');
done_testing();
