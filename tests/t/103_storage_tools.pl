# Stock programs and commands on an encrypted directory: what sees clear pages, what sees ciphertext, and what is refused.
use strict;
use warnings;
use File::Basename ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/' . File::Basename::basename($0, '.pl'); # 112 and 113 may run beside this
mkdir $tmp;
my $marker = 'MARKER-tools-2277fe';
my $kek = 'file:' . kek_file("$tmp/kek");
my $quiet = "log_statement = none\nmax_wal_senders = 5\nwal_log_hints = on\nwal_keep_size = '256MB'\n";

sub run_in
{
	my ($node, @command) = @_;
	return $node->run_program(@command);
}

my $node = Walcrypt::Node->new('one');
$node->init_encrypted($kek, allows_streaming => 1, extra => ['-k']);
$node->append_conf('postgresql.conf', $quiet);
$node->start;
mkdir "$tmp/$_" for qw(space elsewhere);
$node->safe_psql("postgres", "CREATE TABLESPACE away LOCATION '$tmp/space'");
$node->safe_psql("postgres", "CREATE TABLESPACE elsewhere LOCATION '$tmp/elsewhere'");
$node->safe_psql('postgres', "CREATE TABLE t (id int PRIMARY KEY, body text);
	INSERT INTO t SELECT i, '$marker ' || i FROM generate_series(1, 5000) i;
	CREATE TABLE away TABLESPACE away AS SELECT * FROM t;
	CREATE UNLOGGED TABLE u AS SELECT * FROM t");
$node->safe_psql('postgres', 'CREATE DATABASE copied TEMPLATE postgres STRATEGY file_copy');
$node->safe_psql('postgres', 'CREATE DATABASE logged TEMPLATE postgres STRATEGY wal_log');
$node->safe_psql('postgres', 'CHECKPOINT');
for my $db (qw(postgres copied logged)) {
	is($node->safe_psql($db, 'SELECT count(*), sum(id) FROM t UNION ALL SELECT count(*), sum(id) FROM away'), "5000|12502500\n5000|12502500", "the rows in database $db");
}
$node->safe_psql('postgres', "ALTER DATABASE copied SET TABLESPACE elsewhere");
is($node->safe_psql('copied', 'SELECT count(*) FROM t'), '5000', 'a database moves to another tablespace');
is(join(' ', files_containing($marker, $node->data_dir, "$tmp/space")), '', 'the marker is in no file, tablespaces included');

# what a walsender copies is ciphertext, whatever kind of connection it is
sub backup_through
{
	my ($connection) = @_;
	my ($ok, $out, $err) = run_in($node, 'psql', '-XAt', '-d', $node->connstr('postgres') . " $connection", '-c', "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', VERIFY_CHECKSUMS false)");
	# psql does not print COPY data of this protocol completely, so pg_basebackup below looks at the bytes; here it must not crash
	return $out . $err;
}
for my $connection ('replication=true', 'replication=database') {
	unlike(backup_through($connection), qr/\Q$marker\E/, "BASE_BACKUP with $connection sends no clear row");
}
# a replication command begins with its word; SQL with a comment in front is SQL, whose files are not copied raw
for my $statement ('/*a_b*/CREATE DATABASE copied STRATEGY file_copy', "--a_b\nCREATE DATABASE copied2 STRATEGY file_copy") {
	my ($ok, $out, $err) = run_in($node, 'psql', '-XAt', '-d', $node->connstr('postgres') . ' replication=database', '-c', $statement);
	my ($name) = $statement =~ /DATABASE (\w+)/;
	is($node->safe_psql($name, 'SELECT count(*) > 100 FROM pg_class'), 't', "$name is a sound database") or diag($err);
}
command_ok([ 'pg_basebackup', '-D', "$tmp/backup", '-Ft', '-X', 'fetch', '-d', $node->connstr ], 'stock pg_basebackup');
command_ok([ 'pg_basebackup', '-D', "$tmp/backup_plain", '-X', 'fetch', '-T', "$tmp/space=$tmp/space2", '-T', "$tmp/elsewhere=$tmp/elsewhere2", '-d', $node->connstr ], 'and to plain files');
is(join(' ', files_containing($marker, "$tmp/backup", "$tmp/backup_plain", "$tmp/space2")), '', 'a base backup is ciphertext, with its WAL');
command_ok([ 'pg_verifybackup', '-n', "$tmp/backup_plain" ], 'stock pg_verifybackup passes on it');

# logical decoding reads clear WAL, in SQL and in a walsender; large transactions spill
$node->append_conf('postgresql.conf', "wal_level = logical\nlogical_decoding_work_mem = 64kB\nmax_replication_slots = 4\n");
$node->restart;
$node->safe_psql('postgres', "SELECT pg_create_logical_replication_slot('l', 'test_decoding')");
$node->safe_psql('postgres', "UPDATE t SET body = body || ' again'");
like($node->safe_psql('postgres', "SELECT data FROM pg_logical_slot_peek_changes('l', NULL, NULL) WHERE data LIKE '%again%' LIMIT 1"), qr/\Q$marker\E \d+ again/, 'logical decoding in SQL');
{
	my ($out, $err) = ('', '');
	local %ENV = $node->_get_env;
	my $run = IPC::Run::start([ 'pg_recvlogical', '-S', 'l', '--start', '-f', '-', '--no-loop', '-d', $node->connstr('postgres') ], '<', \undef, '>', \$out, '2>', \$err);
	wait_for('decoded rows', sub { $run->pump_nb; $out =~ /again.*COMMIT/s });
	$run->signal('INT');
	$run->finish;
	is(scalar(() = $out =~ /\Q$marker\E \d+ again/g), 5000, 'and over a walsender');
}
cmp_ok($node->safe_psql('postgres', "SELECT spill_count FROM pg_stat_replication_slots WHERE slot_name = 'l'"), '>', 0, 'it spilled');
$node->poll_query_until('postgres', "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'l'") or die;
$node->safe_psql('postgres', "SELECT pg_drop_replication_slot('l')");

# an unlogged table comes back empty from its init fork
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM u'), '0', 'an unlogged table is reset from its init fork');
$node->check_integrity('after a crash', restart => 1);
is($node->safe_psql('postgres', "SELECT length(pg_read_binary_file(pg_relation_filepath('t'))) % 8192"), '0', 'pg_read_binary_file reads relation files');
like($node->safe_psql('postgres', "SELECT encode(pg_read_binary_file(pg_relation_filepath('t')), 'escape') LIKE '%$marker%'"), qr/^t$/, 'in clear, for whom SQL would show them anyway');

my $segment = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
$node->safe_psql('postgres', "INSERT INTO t VALUES (0, '$marker zero')");
my $lsn = $node->lsn('flush');
$node->stop;

my ($ok, $out, $err) = run_in($node, 'pg_waldump', '-p', $node->data_dir . '/pg_wal', '-s', $lsn =~ s{/.*}{/}r . sprintf('%X', hex($lsn =~ s{.*/}{}r) & ~0xFFFFF), '-e', $lsn);
like($out, qr/INSERT/, 'pg_waldump reads records under the layer');
($ok, $out, $err) = run_in($node, 'pg_checksums', '--check', '-D', $node->data_dir);
like($out, qr/Bad checksums:  0/, 'pg_checksums --check under the layer');
command_fails([ 'pg_checksums', '--check', '-D', $node->data_dir ], 'without it every page is bad');
($ok) = run_in($node, 'pg_checksums', '--disable', '-D', $node->data_dir);
($ok, $out, $err) = run_in($node, 'pg_checksums', '--enable', '-D', $node->data_dir);
ok($ok, 'pg_checksums --enable rewrites every page') or diag($err);
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '5001', 'which are still whole');
$node->stop;
($ok, $out, $err) = run_in($node, 'pg_resetwal', '-f', '-D', $node->data_dir);
ok($ok, 'pg_resetwal') or diag($err);
my %wal = encrypted_wal_files($node->data_dir . '/pg_wal');
is(join(' ', values %wal), 'encrypted', 'writes an encrypted segment');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '5001', 'and the server starts on it');
($ok, $out, $err) = run_in($node, 'pg_waldump', '--version');
ok($ok, 'a version needs no keys');

# pg_rewind, from a running source and from a stopped one's directory
$node->safe_psql('postgres', 'DROP TABLE away');
$node->safe_psql('postgres', "DROP DATABASE $_") for qw(copied logged);
$node->safe_psql('postgres', "DROP TABLESPACE $_") for qw(away elsewhere);
my $rows = 'SELECT count(*), sum(id), sum(hashtext(body)) FROM t';
for my $how ('server', 'directory') {
	my $target = Walcrypt::Node->new("target_$how");
	$node->backup($how);
	$target->init_from_backup($node, $how, has_streaming => 1);
	$target->use_layer($kek);
	$target->append_conf('postgresql.conf', $quiet);
	$target->start;
	$node->wait_for_catchup($target, 'replay', $node->lsn('flush'));
	# both go on for themselves
	$target->promote;
	$target->safe_psql('postgres', "INSERT INTO t SELECT i, 'lost' FROM generate_series(100000, 100500) i; CHECKPOINT");
	$node->safe_psql('postgres', "INSERT INTO t SELECT i, '$marker $how' FROM generate_series(200000, 200499) i ON CONFLICT (id) DO UPDATE SET body = excluded.body; CHECKPOINT");
	$target->stop;
	$node->stop if $how eq 'directory';
	my $keys = slurp_file($target->data_dir . '/pg_cryptokeys/live/keyset.json');
	my @source = $how eq 'server' ? ('--source-server=' . $node->connstr('postgres')) : ('--source-pgdata=' . $node->data_dir);
	($ok, $out, $err) = run_in($target, 'pg_rewind', '-D', $target->data_dir, @source);
	ok($ok, "pg_rewind from a $how") or diag($out . $err);
	is(slurp_file($target->data_dir . '/pg_cryptokeys/live/keyset.json'), $keys, 'the target keeps its keys');
	$node->start if $how eq 'directory';
	$target->append_conf('postgresql.conf', 'port = ' . $target->port . "\n");
	$target->append_conf('postgresql.auto.conf', "primary_conninfo = '" . $node->connstr . "'\n");
	$target->set_standby_mode;
	$target->start;
	my $lsn_now = $node->lsn('flush');
	$target->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn_now'") or die;
	is($target->safe_psql('postgres', $rows), $node->safe_psql('postgres', $rows), 'it follows the source again with the same rows');
	$target->stop;
	($ok, $out, $err) = run_in($target, 'pg_checksums', '--check', '-D', $target->data_dir);
	like($out, qr/Bad checksums:  0/, 'and all its pages are whole') or diag($err);
	is(join(' ', files_containing($marker, $target->data_dir)), '', 'and ciphertext');
}

# refusals
$node->append_conf('postgresql.conf', "dynamic_shared_memory_type = mmap\n");
$node->stop;
is($node->start(fail_ok => 1), 0, 'dynamic_shared_memory_type = mmap is refused');
like(slurp_file($node->logfile), qr/dynamic_shared_memory_type = mmap cannot be used/, 'by name');
$node->append_conf('postgresql.conf', "dynamic_shared_memory_type = posix\n");
$node->start;
is($node->safe_psql('postgres', "SELECT count(*) FROM t WHERE id < 100000"), '5001', 'it runs again');
# archive_command and its like run without the layer, and without a word of the cluster key
$node->safe_psql('postgres', "COPY (SELECT 1) TO PROGRAM 'env > $tmp/env; cat >/dev/null'");
unlike(slurp_file("$tmp/env"), qr/LD_PRELOAD|WALCRYPT_KEK/, 'programs that the server starts run without the layer');
$node->stop;
done_testing();
