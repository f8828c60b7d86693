# A server on the storage layer against a plain one: transactions, scans, loading. Both are up, rounds take turns. Each row is defined
# in docs/performance.md.
use strict;
use warnings;
use Bench;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use Walcrypt;

my $seconds   = $ENV{BENCH_TPCB_SECONDS} // 30;
my $gigabytes = $ENV{BENCH_SCAN_GB} // 1;
my %only      = map { $_ => 1 } split(' ', $ENV{BENCH_ONLY} // 'tpcb select scan cold load wal sort within');
my $scale     = 50;

my $kek  = Walcrypt::kek_file("$tmp/bench_kek");
my %node = (plain => Walcrypt::Node->new('plain'), encrypted => Walcrypt::Node->new('encrypted'));
my @sides = qw(plain encrypted);
my $big = grep { $only{$_} } qw(scan cold load sort);
my (%postmaster, %children);

# Started, with the number of processes that it has when nobody is connected.
sub ready
{
	my ($side) = @_;
	($postmaster{$side}) = slurp_file($node{$side}->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	$node{$side}->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type IN ('client backend', 'autovacuum worker')");
	sleep(1);
	(undef, $children{$side}) = tree_cpu_seconds($postmaster{$side});
	return;
}

$node{plain}->init(allows_streaming => 1, extra => ['-k']);
$node{encrypted}->init_encrypted("file:$kek", allows_streaming => 1);
my $rows = int($gigabytes * 131072 * 61);    # 61 rows of pgbench_accounts' shape fill a page
for my $side (@sides) {
	my $node = $node{$side};
	$node->append_conf('postgresql.conf', "shared_buffers = 256MB\nfsync = on\nmax_wal_size = 8GB\nmax_connections = 50\nlog_statement = none\n"
		. "autovacuum = off\ncheckpoint_timeout = 1h\nmax_parallel_workers_per_gather = 0\nsynchronize_seqscans = off\nwork_mem = 64MB\n");
	$node->start;
	$node->command_ok([ 'pgbench', '-q', '-i', '-s', $scale, 'postgres' ], 'fill');
	$node->safe_psql('postgres', "CREATE TABLE big AS SELECT i AS aid, 1 AS bid, 0 AS abalance, ''::char(84) AS filler FROM generate_series(1, $rows) i") if $big;
	$node->safe_psql('postgres', 'VACUUM ANALYZE; CHECKPOINT');
	ready($side);
}
my $big_pages = $big ? $node{plain}->safe_psql('postgres', "SELECT pg_relation_size('big') / 8192") : 0;

# What a session of these statements takes by the clock, the last of them.
sub statement_seconds
{
	my ($side, $sql) = @_;
	my $out = $node{$side}->safe_psql('postgres', "\\timing on\n$sql");
	my @ms  = $out =~ /^Time: ([0-9.]+) ms/mg or die "no time in: $out";
	return $ms[-1] / 1000;
}

# The same command on both sides at the same time, their servers on one processor: whatever else the machine does falls on both alike,
# and what one takes more than the other is told within hundredths. Returns medians of processor time and, where they can be counted, of
# instructions and cycles in user mode: of the plain side, and what was added in the same round; and of what pages tells of the encrypted
# side, counters that grow. command: side and round to [ARGV], standard input; after: for each side, not counted.
sub side_by_side
{
	my ($command, $pages, $after) = @_;
	my (%figures, %median);
	pin($_, 0) for @sides;
	for my $round (0 .. $rounds) {
		my (%count, %from, %run, %said);
		my @pages = $pages->();
		$from{$_}  = (tree_cpu_seconds($postmaster{$_}, $children{$_}))[0] for @sides;
		$count{$_} = count_start(tree($postmaster{$_})) for @sides;
		for my $side (@sides) {
			my ($argv, $input) = $command->($side, $round);
			my %env = $node{$side}->_get_env;
			delete @env{qw(LD_PRELOAD WALCRYPT_KEK WALCRYPT_DATADIR)};
			local %ENV = %env;
			$run{$side} = IPC::Run::start($argv, '<', \$input, '>&', \$said{$side});
		}
		for my $side (@sides) { $run{$side}->finish or die "$side: $said{$side}"; }
		my %took = map { ($_ => [ (tree_cpu_seconds($postmaster{$_}, $children{$_}))[0] - $from{$_}, $count{$_} ? $count{$_}->() : () ]) } @sides;
		my @now = $pages->();
		$took{pages} = [ map { $now[$_] - $pages[$_] } 0 .. 2 ];
		$after->($_) for @sides;
		next if $round == 0;
		$took{added} = [ map { $took{encrypted}[$_] - $took{plain}[$_] } 0 .. $#{ $took{plain} } ];
		for my $what (keys %took) { push @{ $figures{$what}[$_] }, $took{$what}[$_] for 0 .. $#{ $took{$what} }; }
	}
	pin($_, '0-' . (cores() - 1)) for @sides;
	for my $what (keys %figures) { $median{$what} = [ map { median(@$_) } @{ $figures{$what} } ]; }
	return \%median;
}

sub pin
{
	my ($side, $processors) = @_;
	system("taskset -a -c -p $processors $_ >/dev/null 2>&1") for tree($postmaster{$side});
	return;
}

# What was added over plain, in units of the floor: seconds by what openssl alone needs for the pages, instructions and cycles by what
# our cipher needs for them in a loop. All for one of n things. Returns the seconds of the plain server, what was added, and the floor.
sub say_added
{
	my ($median, $n, $unit) = @_;
	my ($read, $written, $wal) = map { $_ / $n < 0.01 ? 0 : $_ / $n } @{ $median->{pages} };    # fewer are the catalogs' of the measuring itself
	my ($plain, $added) = map { $median->{$_}[0] / $n } qw(plain added);
	my $floor = ($read + $written) * page_seconds() + ($wal > 0 ? $wal * page_seconds('wal') : 0);
	my $us = $unit eq 's' ? 1 : 1e6;
	say_line('  side by side on one processor: processor time plain %.3f %s, added %.3f %s', $plain * $us, $unit, $added * $us, $unit);
	if ($floor > 0) {
		say_line('  floor: %.2f relation pages and %.2f of WAL x openssl = %.3f %s; added/floor %.2f', $read + $written, $wal, $floor * $us, $unit, $added / $floor);
		figure('added/floor', $added / $floor, 1.25);
	} else {
		say_line('  floor: none, no page is ciphered');
	}
	if (@{ $median->{plain} } == 3) {
		my @bare = (0, 0);
		for ([ $read, 'page-decrypt' ], [ $written, 'page-encrypt' ], [ $wal, 'wal-page-encrypt' ]) {
			my ($count, $what) = @$_;
			my @one = $count > 0 ? page_counts($what) : (0, 0);
			$bare[$_] += $count * $one[$_] for 0, 1;
		}
		for ([ 'instructions', 1 ], [ 'cycles', 2 ]) {
			my ($what, $i) = @$_;
			my $bare = $bare[ $i - 1 ];
			my ($p, $a) = map { $median->{$_}[$i] / $n } qw(plain added);
			say_line('  %s outside of the kernel: plain %.0f, added %.0f%s', $what, $p, $a, $bare > 0 ? sprintf('; the bare cipher %.0f, added/bare %.2f', $bare, $a / $bare) : '');
		}
	} else {
		say_line('  instructions and cycles: not counted, this machine does not let us');
	}
	return ($plain, $added, $floor);
}

# The row of a statement: by the clock in turns, what it adds side by side.
sub statement_row
{
	my ($sql, $mark, $pages, $after) = @_;
	$after //= sub { };
	my $clock = compare('s by the clock', \@sides, sub { my $s = statement_seconds($_[0], $sql); $after->($_[0]); return $s; });
	say_line('  encrypted to plain, by the clock %.3f', $clock->{encrypted} / $clock->{plain});
	figure('time by the clock, encrypted/plain', $clock->{encrypted} / $clock->{plain}, $mark);
	say_added(side_by_side(sub { my ($side) = @_; return ([ 'psql', '-XAtq', '-d', $node{$side}->connstr('postgres') ], $sql); }, $pages, $after), 1, 's');
	return;
}

# Counters of pages that grow by so many with each statement.
sub each_time { my (@each) = @_; my $times = 0; return sub { $times++; return map { $_ * $times } @each; }; }

# Pages so far: of relations read and written, of WAL written.
sub pages_so_far
{
	my ($side) = @_;
	return split(/\|/, $node{$side}->safe_psql('postgres', "SELECT (SELECT sum(blks_read) FROM pg_stat_database),
		(SELECT buffers_checkpoint + buffers_clean + buffers_backend FROM pg_stat_bgwriter), (SELECT greatest(wal_write, ceil(wal_bytes / 8192)) FROM pg_stat_wal)"));
}

sub pgbench
{
	my ($options, $mark) = @_;
	my @command = (qw(pgbench -n -c 8 -j 2), split(' ', $options));
	my $tps = compare('tps', \@sides, sub {
		my ($side) = @_;
		my %env = $node{$side}->_get_env;
		local %ENV = %env;
		my $out = `@command -T $seconds postgres 2>/dev/null`;
		my ($rate) = $out =~ /^tps = ([0-9.]+)/m or die 'pgbench';
		return $rate;
	});
	my $ratio = $tps->{encrypted} / $tps->{plain};
	say_line('  rate, encrypted to plain %.3f', $ratio);
	figure('rate, encrypted/plain', $ratio, $mark);

	# the same transactions on both sides, for about as long
	my $each = int($tps->{plain} * $seconds / 8 / 3) + 1;
	my $median = side_by_side(sub { my ($side, $round) = @_; return ([ @command, '-t', $each, "--random-seed=$round", $node{$side}->connstr('postgres') ], ''); },
		sub { pages_so_far('encrypted') }, sub { });
	my ($plain, $added, $floor) = say_added($median, 8 * $each, 'us a transaction');
	# with all processors busy; clients and what else works for a transaction are in it
	my ($least, $most) = map { 1 / (1 + $_ * $tps->{plain} / cores()) } $added, $floor;
	say_line('  of the rate, with all processors busy: the processor time added leaves %.3f, the floor alone would leave %.3f', $least, $most);
	figure('rate that the processor time added leaves', $least, $mark);
	return;
}

sub cores { chomp(my $n = `nproc`); return $n; }

# Does none of it stand in the page cache after this? Then the next scan reads the disk.
sub dropped
{
	my (@files) = @_;
	for my $file (@files) {
		system('dd', "if=$file", 'iflag=nocache', 'count=0', 'status=none') == 0 or return 0;
		return 0 if `fincore -b -n -o RES $file` != 0;
	}
	return 1;
}

if ($only{tpcb}) {
	say_part("pgbench TPC-B, scale $scale, 8 clients, $seconds s a run, fsync on");
	pgbench('', 0.97);
}
if ($only{select}) {
	say_part("pgbench SELECT-only, scale $scale, 8 clients, $seconds s a run, 256 MB of shared buffers: data from the system's cache");
	pgbench('-S', 0.98);
}
if ($only{scan}) {
	say_part('sequential scan of %.2f GB in the operating system\'s cache, one process', $big_pages / 131072);
	statement_row('SELECT count(*) FROM big', 1.5, each_time($big_pages, 0, 0));
}
if ($only{cold}) {
	my %files = map { my $file = $node{$_}->data_dir . '/' . $node{$_}->safe_psql('postgres', "SELECT pg_relation_filepath('big')"); ($_ => [ $file, glob("$file.[0-9]*") ]) } @sides;
	# "GB/s=FOLDER ..." of tests/bench/limited, or why there are none
	my $limits = $ENV{BENCH_LIMITS} // 'tests/bench/limited has not made any';
	for my $limit (undef, $limits =~ /=/ ? split(' ', $limits) : $limits) {
		my ($rate, $group) = defined $limit ? split('=', $limit, 2) : ();
		say_part('sequential scan of %.2f GB from the disk, dropped from the system\'s cache before%s', $big_pages / 131072, $group ? ", which may give $rate GB/s" : defined $limit ? ', at a limited speed' : '');
		if (grep { !dropped(@{ $files{$_} }) } @sides) {
			say_line('  not measured: this file system keeps the files in memory');
		} elsif (defined $limit && !$group) {
			say_line('  not measured: %s', $limit);
		} else {
			my $clock = compare('s by the clock', \@sides, sub {
				my ($side) = @_;
				dropped(@{ $files{$side} }) or die 'the files are in the cache again';
				local $ENV{GROUP} = $group // '';
				my $join = $group ? "SELECT pg_backend_pid() AS pid \\gset\n\\setenv PID :pid\n\\! echo \$PID >\$GROUP/cgroup.procs\n\\timing on\n" : '';
				return statement_seconds($side, "${join}SELECT count(*) FROM big");
			});
			say_line('  encrypted to plain, by the clock %.3f; the disk gave the plain server %.2f GB/s', $clock->{encrypted} / $clock->{plain}, $big_pages * 8192 / 1e9 / $clock->{plain});
			figure('time by the clock, encrypted/plain', $clock->{encrypted} / $clock->{plain}, 1.0);
		}
	}
}
if ($only{load}) {
	say_part('CREATE TABLE AS of %.2f GB, WAL logged', $big_pages / 131072);
	my $relation = each_time($big_pages, $big_pages);
	statement_row('CREATE TABLE copied AS SELECT * FROM big', 1.25,
		sub { ($relation->(), $node{encrypted}->safe_psql('postgres', "SELECT ceil((pg_current_wal_insert_lsn() - '0/0') / 8192)")) },
		sub { $node{ $_[0] }->safe_psql('postgres', 'DROP TABLE copied; CHECKPOINT') });
}
if ($only{wal}) {
	say_part('WAL-only load: 10,000 logical messages of 64 kB, asynchronous commit');
	statement_row("SET synchronous_commit = off; SELECT count(pg_logical_emit_message(false, 'bench', repeat('x', 65536))) FROM generate_series(1, 10000)", '',
		each_time(0, 0, 10000 * 8), sub { $node{ $_[0] }->safe_psql('postgres', 'CHECKPOINT') });
}
if ($only{sort}) {
	say_part('sort of %.2f GB that spills to temporary files, work_mem 64 MB', $big_pages / 131072);
	my $big_read = each_time($big_pages);
	statement_row('SELECT count(*) FROM (SELECT * FROM big ORDER BY hashint4(aid) OFFSET 0) x', '', sub {
		my $temp = $node{encrypted}->safe_psql('postgres', "SELECT temp_bytes / 8192 FROM pg_stat_database WHERE datname = 'postgres'");
		return (($big_read->())[0] + $temp, $temp, 0);    # temporary pages are XTS too, written and read once
	});
}
if ($only{within}) {
	for my $side (@sides) {
		$node{$side}->append_conf('postgresql.conf', "shared_buffers = 1GB\n");
		$node{$side}->restart;
		$node{$side}->safe_psql('postgres', "CREATE EXTENSION IF NOT EXISTS pg_prewarm; SELECT pg_prewarm('pgbench_accounts'), pg_prewarm('pgbench_accounts_pkey')");
		ready($side);
	}
	say_part("pgbench SELECT-only, scale $scale, 8 clients, $seconds s a run, 1 GB of shared buffers: all data within them");
	pgbench('-S', 0.98);
}
$_->stop for values %node;
ok(1, 'measured');
done_testing();
