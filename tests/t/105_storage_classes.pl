# Every class of file that holds rows or statements, looked at from outside while it is there: temporary and shared temporary files, spilled
# decoding, notifications, the texts of pg_stat_statements, temporary and unlogged tables, TOAST, tablespaces, prepared transactions. The
# same is done on a stock server, where the marker must be found.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $marker = 'MARKER-classes-7d31e0';
my $conf = "log_statement = none\nwal_level = logical\nmax_replication_slots = 4\nmax_wal_senders = 4\nmax_prepared_transactions = 4\nlogical_decoding_work_mem = 64kB\n"
	. "shared_preload_libraries = 'pg_stat_statements'\nmax_parallel_workers = 4\nwork_mem = 64kB\nhash_mem_multiplier = 1\nautovacuum = off\n";
my @clusters = (Walcrypt::Node->new('plain'), Walcrypt::Node->new('sealed'));
$clusters[0]->init(extra => ['-k']);
$clusters[1]->init_encrypted('file:' . kek_file("$tmp/kek_105"), extra => ['-k']);
my %found;    # class => [ files of the stock server with the marker, of the encrypted one ]

sub look
{
	my ($i, $class, @where) = @_;
	$found{$class}[$i] = join(' ', map { s{.*/pgdata/}{}r } files_containing($marker, @where));
	return;
}

# Shared temporary files of a parallel hash join; pg_sleep holds it up while they are looked at. The workers' pids in passing.
sub parallel_join
{
	my ($i, $node, $dir) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query_safe('SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
		SET enable_mergejoin = off; SET enable_nestloop = off; SET max_parallel_workers_per_gather = 2');
	$session->query_until(qr//, "SELECT count(*) FROM letters a JOIN letters b ON a.body = b.body WHERE pg_sleep(0.01) IS NOT NULL;\n");
	my $set = "$dir/base/pgsql_tmp";
	wait_for('shared temporary files', sub { scalar(grep { -s } glob("$set/*fileset/*")) > 8 });
	wait_for('the marker in them', sub { files_containing($marker, $set) > 0 }) if $i == 0;
	look($i, 'shared files of a parallel query', $set);
	is($node->safe_psql('postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'parallel worker'"), 't', $node->name . ': parallel workers run');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT count%letters a%' AND backend_type = 'client backend' AND pid <> pg_backend_pid()");
	$session->quit;
	return;
}

# A transaction that is too large for memory, decoded while it runs.
sub decoding
{
	my ($i, $node, $dir) = @_;
	$node->safe_psql('postgres', "SELECT pg_create_logical_replication_slot('l', 'test_decoding')");
	my $session = $node->background_psql('postgres');
	$session->query_safe("BEGIN; UPDATE letters SET body = body || ' decoded' WHERE id <= 4000");
	my ($out, $err) = ('', '');
	local %ENV = $node->_get_env;
	my $run = IPC::Run::start([ 'pg_recvlogical', '-S', 'l', '--start', '-f', '-', '--no-loop', '-d', $node->connstr('postgres') ], '<', \undef, '>', \$out, '2>', \$err);
	wait_for('spilled changes', sub { grep { -s } glob("$dir/pg_replslot/l/*.spill") });
	look($i, 'spilled changes of logical decoding', "$dir/pg_replslot");
	$session->query_safe('COMMIT');
	wait_for('the decoded transaction', sub { $run->pump_nb; $out =~ /COMMIT/ });
	is(scalar(() = $out =~ /\Q$marker\E \d+ decoded/g), 4000, $node->name . ': a logical walsender reads its spill back');
	$run->signal('INT');
	$run->finish;
	$session->quit;
	$node->poll_query_until('postgres', "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'l'") or die;
	$node->safe_psql('postgres', "SELECT pg_drop_replication_slot('l')");
	return;
}

# More notifications than the buffers hold, kept for a listener that is busy.
sub notifications
{
	my ($i, $node, $dir) = @_;
	my $listener = $node->background_psql('postgres');
	$listener->query_safe('LISTEN news; BEGIN; SELECT 1');
	$node->safe_psql('postgres', "SELECT count(pg_notify('news', '$marker ' || n || repeat('.', 7000))) FROM generate_series(1, 60) n");
	wait_for('a page of notifications', sub { grep { -s } glob("$dir/pg_notify/*") });
	look($i, 'notifications', "$dir/pg_notify");
	my $news = $listener->query('COMMIT; SELECT 2');
	is(scalar(() = $news =~ /Asynchronous notification "news" with payload "\Q$marker\E \d+\.{7000}"/g), 60, $node->name . ': all notifications arrive');
	$listener->quit;
	return;
}

# Texts of queries: written by several sessions at a time, cut down, and there again after a restart.
sub statements
{
	my ($i, $node, $dir, $path) = @_;
	$node->safe_psql('postgres', 'CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_stat_statements_reset()');
	$node->safe_psql('postgres', "/* $marker */ SELECT 42");
	# 800 statements of every length
	my @text = map { my $s = $_; join(';', map { 'SELECT 1' . ',1' x (4 * $_ + $s) } 1 .. 200) } 0 .. 3;
	my @run = map { IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-o', '/dev/null' ], '<', \$_, '>', \my $out, '2>', \my $err) } @text;
	$_->finish for @run;
	my $whole = q{SELECT count(*) FROM pg_stat_statements WHERE query ~ '^SELECT \$1(,\$\d+)+$'};
	is($node->safe_psql('postgres', $whole), '800', $node->name . ': 800 texts written by four sessions at a time are whole');
	look($i, 'texts of pg_stat_statements', "$dir/pg_stat_tmp");
	$node->stop;
	look($i, 'texts of pg_stat_statements over a restart', "$dir/pg_stat");
	look($i, 'an unlogged table', "$dir/$path->{unlogged}");
	$node->start;
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%$marker%SELECT \$1'"), '1', $node->name . ': they survive a restart');
	is($node->safe_psql('postgres', $whole), '800', $node->name . ': all of them');
	return;
}

for my $i (0, 1) {
	my $node = $clusters[$i];
	my $dir = $node->data_dir;
	my $space = "$tmp/space_$i";
	mkdir $space;
	$node->append_conf('postgresql.conf', $conf);
	# the guard's library was named there by initdb
	$node->append_conf('postgresql.auto.conf', "shared_preload_libraries = '$Walcrypt::layer, pg_stat_statements'\n") if $i == 1;
	$node->start;
	$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$space'");
	$node->safe_psql('postgres', "CREATE TABLE letters (id int PRIMARY KEY, body text);
		INSERT INTO letters SELECT i, '$marker ' || i FROM generate_series(1, 20000) i;
		CREATE INDEX ON letters (body);
		CREATE TABLE away TABLESPACE space AS SELECT * FROM letters;
		CREATE UNLOGGED TABLE unlogged AS SELECT * FROM letters;
		CREATE TABLE toasted (body text); ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL;
		INSERT INTO toasted SELECT string_agg(body, ',') FROM letters;
		CREATE TABLE \"$marker\" (a int)");
	my $holder = $node->background_psql('postgres');
	$holder->query_safe("SET temp_buffers = 100; CREATE TEMP TABLE own AS SELECT * FROM letters; SET work_mem = '64kB'; SET enable_indexscan = off; SET enable_bitmapscan = off; BEGIN;
		DECLARE c CURSOR FOR SELECT body || body FROM letters ORDER BY md5(body); FETCH 10 FROM c");
	look($i, 'temporary files', "$dir/base/pgsql_tmp");
	$node->safe_psql('postgres', "BEGIN; INSERT INTO letters VALUES (0, '$marker prepared'); PREPARE TRANSACTION 'p'");
	$node->safe_psql('postgres', 'CHECKPOINT');
	ok(scalar(() = glob("$dir/pg_twophase/*")), $node->name . ': a prepared transaction has a state file');
	is(join(' ', files_containing($marker, "$dir/pg_twophase")), '', $node->name . ': which holds no row');
	$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
	my %path = map { $_ => $node->safe_psql('postgres', "SELECT pg_relation_filepath('$_')") } qw(letters unlogged letters_body_idx pg_class);
	$path{toast} = $node->safe_psql('postgres', "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE relname = 'toasted'");
	my $temp = $holder->query_safe("SELECT pg_relation_filepath('own')");
	my ($temp_file) = $temp =~ m{(base/\d+/t\d+_\d+)};
	$node->safe_psql('postgres', 'CHECKPOINT');
	look($i, "a table: $_", "$dir/$path{$_}") for grep { $_ ne 'unlogged' } keys %path;
	look($i, 'a temporary table', "$dir/$temp_file");
	look($i, 'a tablespace', $space);
	look($i, 'WAL', "$dir/pg_wal");
	$holder->query_safe('MOVE ALL FROM c; COMMIT');
	parallel_join($i, $node, $dir);
	decoding($i, $node, $dir);
	notifications($i, $node, $dir);
	statements($i, $node, $dir, \%path);
	$holder->quit;
	# the relation cache's file: rows of the system's own catalogs, not of what users make
	ok(-s "$dir/global/pg_internal.init", $node->name . ': there is a pg_internal.init');
	is(join(' ', files_containing($marker, grep { -f } glob("$dir/global/pg_internal.init $dir/base/*/pg_internal.init"))), '', $node->name . ': without names of users\' tables');
	$node->stop;
}
for my $class (sort keys %found) {
	isnt($found{$class}[0], '', "$class: the marker is found on a stock server ($found{$class}[0])");
	is($found{$class}[1], '', "$class: and not on an encrypted one");
}
is(join(' ', files_containing($marker, $clusters[1]->data_dir, "$tmp/space_1")), '', 'nor anywhere else in its directory');
done_testing();
