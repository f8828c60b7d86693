# How servers of 16 and later do their I/O (125 and 126 run this file with 17 and 18): direct I/O for data and WAL, reads of many
# pages at once, I/O workers, databases copied by copy_file_range. Buffers are few, so that pages are read and written all the time.
use strict;
use warnings;
use Fcntl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Strace;

BEGIN { use_postgres(16) if postgres_major() == 15; }

my $major = postgres_major();
my $tmp = $PostgreSQL::Test::Utils::tmp_check . "/io$major";
mkdir $tmp, 0700;
my $kek = 'file:' . kek_file("$tmp/kek");
my $marker = "MARKER-io-$major-44e1";
my $facts = 'SELECT count(*), sum(id), sum(hashtext(body)) FROM letters UNION ALL SELECT count(*), sum(abalance), 0 FROM pgbench_accounts';

# a file system without direct I/O is no place for this
my $direct = sysopen(my $probe, "$tmp/probe", O_RDWR | O_CREAT | O_DIRECT);
note('no direct I/O on this file system') unless $direct;

my $node = Walcrypt::Node->new('one');
$node->init_encrypted($kek, allows_streaming => 1);
$node->append_conf('postgresql.conf', "log_statement = none\nshared_buffers = '2MB'\nmax_wal_size = 2GB\nwal_keep_size = '512MB'\nautovacuum_naptime = 1\n"
	. ($direct ? "debug_io_direct = 'data, wal, wal_init'\n" : ''));
$node->start;
is($node->safe_psql('postgres', 'SHOW debug_io_direct'), $direct ? 'data, wal, wal_init' : '', "PostgreSQL $major: direct I/O");
$node->command_ok([ 'pgbench', '-q', '-i', '-s', 2, 'postgres' ], 'filled');
$node->safe_psql('postgres', "CREATE TABLE letters (id int PRIMARY KEY, body text);
	INSERT INTO letters SELECT i, '$marker ' || i || repeat(' and on', 40) FROM generate_series(1, 30000) i");
my $want = $node->safe_psql('postgres', $facts);

# a standby straight from it, with the same I/O, and both killed
$node->backup('straight');
my $standby = Walcrypt::Node->new('two');
$standby->init_from_backup($node, 'straight', has_streaming => 1);
$standby->use_layer($kek);
$standby->start;
$node->command_ok([ 'pgbench', '-n', '-c', 3, '-t', 200, 'postgres' ], 'written to');
$_->kill9 for $node, $standby;
$_->start for $node, $standby;
$node->safe_psql('postgres', "UPDATE letters SET body = body || ' again' WHERE id % 3 = 0; VACUUM letters; CHECKPOINT");
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $facts), $node->safe_psql('postgres', $facts), 'both recover, with the same rows');
is(join(' ', files_containing($marker, $node->data_dir, $standby->data_dir, $node->backup_dir)), '', 'the marker is nowhere');
$standby->check_integrity('the standby', primary => $node);
$standby->stop;

# every way of doing I/O that the version has reads what the others wrote; with few buffers no backend may take many at once
$node->append_conf('postgresql.conf', "shared_buffers = '32MB'\n");
for my $method ($major >= 18 ? ('worker', 'sync') : ()) {
	for my $combine ('8kB', '256kB') {
		$node->append_conf('postgresql.conf', "io_method = $method\nio_combine_limit = '$combine'\nio_max_combine_limit = '$combine'\n");
		$node->restart;
		is($node->safe_psql('postgres', 'SHOW io_method'), $method, "io_method = $method, $combine at once");
		ok($node->poll_query_until('postgres', "SELECT count(*) @{[ $method eq 'worker' ? '>' : '=' ]} 0 FROM pg_stat_activity WHERE backend_type = 'io worker'"), 'I/O workers');
		$node->safe_psql('postgres', 'UPDATE letters SET body = body WHERE id % 5 = 0; CHECKPOINT; VACUUM (ANALYZE) letters');
		is($node->safe_psql('postgres', 'SELECT count(*), sum(id) FROM letters'), '30000|450015000', 'all rows are read');
		is($node->safe_psql('postgres', "SELECT count(*) FROM letters WHERE body LIKE '$marker%'"), '30000', 'each as it was written');
	}
}
SKIP: {
	skip 'a server before 17 reads page by page', 2 if $major < 17;
	skip_without_strace(2, 'attach');
	# reads of many pages at once arrive as one system call, and are decrypted where they arrive
	my ($out, $err) = ('', '');
	my $trace = "$tmp/trace";
	$node->append_conf('postgresql.conf', ($major >= 18 ? "io_method = sync\n" : '') . "io_combine_limit = '128kB'\n");
	$node->restart;
	my $session = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \my $in, '>', \$out, '2>', \$err);
	# buffers taken here and there, so that the next ones are not side by side
	$in = "SELECT count(abalance) FROM generate_series(1, 5000) i, LATERAL (SELECT abalance FROM pgbench_accounts WHERE aid = 1 + i * 7919 % 200000) a; SELECT 'pid ' || pg_backend_pid();\n";
	wait_for('the session', sub { $session->pump_nb; $out =~ /pid (\d+)/ });
	my ($pid) = $out =~ /pid (\d+)/;
	my $strace = IPC::Run::start([ 'strace', '-f', '-e', 'trace=preadv,pread64,pwrite64', '-o', $trace, '-p', $pid ], '>&', \my $said);
	wait_for('strace', sub { $strace->pump_nb; ($said // '') =~ /attached/ });
	$in = "SET enable_indexscan = off; SELECT 'rows ' || count(*) FROM letters WHERE body LIKE '$marker%';\n";
	wait_for('the rows', sub { $session->pump_nb; $out =~ /rows (\d+)/ });
	$in = "\\q\n";
	$session->finish;
	$strace->finish;
	like($out, qr/rows 30000/, 'a traced scan reads all rows');
	my %calls;
	my $traced = slurp_file($trace);
	$calls{$1}++ while $traced =~ /(pread64|preadv)\(.*\) = (?!8192$)\d{5,}$/mg;
	ok(%calls > 0, 'with one call for many pages: ' . join(', ', map { "$calls{$_} $_" } sort keys %calls));
}

# a database copied as files: by the kernel's copy_file_range where the server wants that, by reading and writing
$node->append_conf('postgresql.conf', "file_copy_method = clone\n") if $major >= 18;
$node->restart;
is($node->safe_psql('postgres', 'SHOW file_copy_method'), 'clone', 'file_copy_method = clone') if $major >= 18;
$node->safe_psql('template1', 'CREATE DATABASE copied TEMPLATE postgres STRATEGY file_copy');
is($node->safe_psql('copied', $facts), $node->safe_psql('postgres', $facts), 'CREATE DATABASE ... STRATEGY file_copy');
mkdir "$tmp/space";
$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$tmp/space'");
$node->safe_psql('postgres', 'ALTER DATABASE copied SET TABLESPACE space');
is($node->safe_psql('copied', $facts), $node->safe_psql('postgres', $facts), 'ALTER DATABASE ... SET TABLESPACE');
is(join(' ', files_containing($marker, $node->data_dir, "$tmp/space")), '', 'the marker is nowhere');
$node->check_integrity('after all of that');
my ($rc, $out, $err) = ctl_output('verify', '-D', $node->data_dir, '--kek', $kek);
is($rc, 0, 'verify is clean') or diag($out . $err);
done_testing();
