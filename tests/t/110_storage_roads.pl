# No way around the layer: what a replication connection of any kind copies is ciphertext, and so is what a server writes when it copies a database,
# moves it, resets unlogged tables, runs in single-user mode or archives in process. The same on a stock server, where the marker must be found.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $marker = 'MARKER-roads-40c6b2';
my $kek = 'file:' . kek_file("$tmp/kek_110");
my @clusters = (Walcrypt::Node->new('plain'), Walcrypt::Node->new('sealed'));
$clusters[0]->init(allows_streaming => 'logical', extra => ['-k']);
$clusters[1]->init_encrypted($kek, allows_streaming => 'logical', extra => ['-k']);
my %found;    # what => [ is the marker there: stock, encrypted ]

sub note_bytes
{
	my ($i, $what, $data) = @_;
	$found{$what}[$i] = index($data, $marker) >= 0 ? 1 : 0;
	return;
}

sub note_files { my ($i, $what, @where) = @_; $found{$what}[$i] = files_containing($marker, @where) > 0 ? 1 : 0; return; }

# Pages of a stream that begins with a segment: how many have clear headers.
sub clear_pages
{
	my ($data) = @_;
	return scalar grep { my ($magic, $info) = unpack('S<S<', substr($data, $_ * 8192, 4)); $magic >> 8 == 0xD1 && !($info & 0x8000) } 0 .. length($data) / 8192 - 1;
}

# A connection of a kind that one may choose, whose COPY data one sees to the last byte.
sub client
{
	my ($node, %parameters) = @_;
	my $wire = Walcrypt::Wire->connect($node);
	$wire->startup(user => (getpwuid($<))[0], %parameters);
	$wire->until('ZE');
	return $wire;
}

# A command's COPY data, put together, and the error if there is one. enough: end when so many bytes of WAL have come.
sub copy
{
	my ($wire, $command, $enough) = @_;
	my ($data, $error) = ('', '');
	$wire->send('Q', "$command\0");
	while (my ($type, $body) = $wire->message) {
		$data .= substr($body, defined $enough ? 25 : 1) if $type eq 'd' && (!defined $enough || $body =~ /^w/);
		$error = { Walcrypt::Wire::fields($body) }->{M} if $type eq 'E';
		last if $type eq 'Z' || (defined $enough && length $data >= $enough);
	}
	return ($data, $error);
}

# replication connections
sub copies
{
	my ($i, $node, $start) = @_;
	$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('physical', true); SELECT pg_create_logical_replication_slot('logical', 'test_decoding')");
	for my $kind ('true', 'database') {
		my @more = $kind eq 'database' ? (database => 'postgres') : ();
		for my $command ("BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast')", "  BASE_BACKUP (LABEL 'START_REPLICATION SLOT l LOGICAL', CHECKPOINT 'fast', WAL, MANIFEST 'yes')", "BASE_BACKUP (PROGRESS, CHECKPOINT 'fast', MAX_RATE 1000000)") {
			my $client = client($node, replication => $kind, @more);
			my ($data, $error) = copy($client, $command);
			is($error, '', $node->name . ", replication=$kind: $command");
			note_bytes($i, "replication=$kind: " . $command =~ s/\s+/ /gr =~ s{\d+/\w+}{LSN}r, $data);
		}
		for my $command ("START_REPLICATION $start", "START_REPLICATION SLOT physical PHYSICAL $start", "\tSTART_REPLICATION\nSLOT \"physical\" $start TIMELINE 1") {
			# the walsender before, which had not sent all, has ended: the slot is free
			wait_for('the end of the stream before', sub { $node->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_replication') == 0 });
			my $client = client($node, replication => $kind, @more);
			my ($data, $error) = copy($client, $command, 1 << 19);
			is($error, '', $node->name . ", replication=$kind: $command");
			note_bytes($i, "replication=$kind: " . $command =~ s/\s+/ /gr =~ s{\d+/\w+}{LSN}r, $data);
			my $clear = clear_pages($data);
			$i ? is($clear, 0, "replication=$kind: $command: no clear page") : cmp_ok($clear, '>', 10, "replication=$kind: $command: clear pages");
		}
	}
	# one connection that has decoded WAL, and so has read it in clear, before it copies; and one that has run SQL
	my $client = client($node, replication => 'database', database => 'postgres');
	copy($client, 'SELECT count(*) FROM letters');
	copy($client, "SELECT count(*) FROM pg_logical_slot_peek_changes('logical', NULL, 100)");
	my ($data, $error) = copy($client, "BASE_BACKUP (LABEL 'after SQL', CHECKPOINT 'fast')");
	is($error, '', $node->name . ': a backup after SQL');
	note_bytes($i, 'BASE_BACKUP after SQL on one connection', $data);
	($data, $error) = copy($client, "START_REPLICATION $start", 1 << 19);
	note_bytes($i, 'START_REPLICATION after SQL on one connection', $data);
	undef $client;
	wait_for('the end of the last stream', sub { $node->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_replication') == 0 });
	$node->safe_psql('postgres', 'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
	return;
}

# databases that are copied and moved, and unlogged tables
sub databases
{
	my ($i, $node) = @_;
	my $dir = $node->data_dir;
	mkdir "$tmp/space_110_$i";
	$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$tmp/space_110_$i'");
	for my $strategy ('wal_log', 'file_copy') {
		$node->safe_psql('postgres', "CREATE DATABASE $strategy TEMPLATE postgres STRATEGY $strategy");
		$node->safe_psql('postgres', 'CHECKPOINT');
		my $oid = $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = '$strategy'");
		note_files($i, "CREATE DATABASE STRATEGY $strategy", "$dir/base/$oid");
		is($node->safe_psql($strategy, 'SELECT count(*), sum(id) FROM letters'), '20000|200010000', $node->name . ": rows of $strategy");
		$node->safe_psql('postgres', "ALTER DATABASE $strategy SET TABLESPACE space; CHECKPOINT");
		note_files($i, "$strategy: ALTER DATABASE SET TABLESPACE", "$tmp/space_110_$i");
		is($node->safe_psql($strategy, 'SELECT count(*), sum(id) FROM letters'), '20000|200010000', $node->name . ": rows of $strategy, moved");
		$node->safe_psql('postgres', "DROP DATABASE $strategy");
	}
	$node->safe_psql('postgres', 'DROP TABLESPACE space');
	# an unlogged table, on the disk with its rows; then it comes back from its init fork
	$node->safe_psql('postgres', 'CREATE UNLOGGED TABLE unlogged AS SELECT * FROM letters; CREATE INDEX ON unlogged (body)');
	my ($heap, $index) = map { $node->safe_psql('postgres', "SELECT pg_relation_filepath('$_')") } 'unlogged', 'unlogged_body_idx';
	$node->restart;
	note_files($i, 'an unlogged table', "$dir/$heap", "$dir/$index");
	$node->stop('immediate');
	$node->start;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM unlogged'), '0', $node->name . ': an unlogged table is empty after a crash');
	$node->safe_psql('postgres', "INSERT INTO unlogged SELECT * FROM letters; SET enable_seqscan = off");
	is($node->safe_psql('postgres', "SET enable_seqscan = off; SELECT id FROM unlogged WHERE body = '$marker 777'"), '777', $node->name . ': and works again, with its index');
	$node->restart;
	note_files($i, 'an unlogged table after its reset', "$dir/$heap", "$dir/$index");
	return;
}

# an archive that the archiver writes by itself, and recovery from it
sub archive
{
	my ($i, $node) = @_;
	my $archive = "$tmp/basic_$i";
	mkdir $archive;
	$node->append_conf('postgresql.conf', "archive_mode = on\narchive_library = 'basic_archive'\nbasic_archive.archive_directory = '$archive'\n");
	$node->restart;
	$node->backup('for_archive');
	$node->safe_psql('postgres', "INSERT INTO letters SELECT 100000 + i, '$marker archive ' || i FROM generate_series(1, 1000) i");
	my $segment = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
	$node->poll_query_until('postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver") or die;
	note_files($i, 'an archive of basic_archive', $archive);
	my %wal = encrypted_wal_files($archive);
	is(join(' ', grep { $wal{$_} ne ('clear', 'encrypted')[$i] } sort keys %wal), '', $node->name . ': basic_archive copies WAL as it stands');
	my $restored = Walcrypt::Node->new("restored_$i");
	$restored->init_from_backup($node, 'for_archive', standby => 0);
	$restored->use_layer($kek) if $i;
	$restored->append_conf('postgresql.conf', "restore_command = 'cp \"$archive/%f\" \"%p\"'\narchive_mode = off\nrecovery_target_action = promote\n");
	append_to_file($restored->data_dir . '/recovery.signal', '');
	$restored->start;
	$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
	is($restored->safe_psql('postgres', 'SELECT count(*) FROM letters WHERE id > 100000'), '1000', $node->name . ': recovery from it');
	$restored->stop;
	$node->append_conf('postgresql.conf', "archive_mode = off\n");
	$node->restart;
	return;
}

# rows between parallel workers, when dynamic shared memory is files
sub mapped_files
{
	my ($i, $node) = @_;
	$node->append_conf('postgresql.conf', "dynamic_shared_memory_type = mmap\n");
	$node->stop;
	my $started = $node->start(fail_ok => 1);
	if ($i == 0) {
		my $session = $node->background_psql('postgres', on_error_stop => 0);
		$session->query_safe('SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET parallel_leader_participation = off');
		$session->query_until(qr//, "SELECT body, pg_sleep(0.01) FROM letters;\n");
		wait_for('rows in files', sub { files_containing($marker, $node->data_dir . '/pg_dynshmem') > 0 });
		$found{'rows between parallel workers'}[0] = 1;
		$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT body, pg_sleep%' AND pid <> pg_backend_pid() AND backend_type = 'client backend'");
		$session->quit;
	} else {
		is($started, 0, 'dynamic_shared_memory_type = mmap is refused');
		like(slurp_file($node->logfile), qr/dynamic_shared_memory_type = mmap cannot be used with the storage layer/, 'by name');
		note_files($i, 'rows between parallel workers', $node->data_dir . '/pg_dynshmem');
	}
	$node->append_conf('postgresql.conf', "dynamic_shared_memory_type = posix\n");
	$i == 0 ? $node->restart : $node->start;
	return;
}

# a server of one process
sub single_user
{
	my ($i, $node) = @_;
	$node->stop;
	local %ENV = $node->_get_env;
	my ($out, $err) = ('', '');
	my $sql = "CREATE TABLE single AS SELECT i, '$marker single ' || i AS body FROM generate_series(1, 3000) i\nCREATE INDEX ON single (body)\nSELECT count(*) FROM letters\nCHECKPOINT\n";
	IPC::Run::run([ 'postgres', '--single', '-D', $node->data_dir, 'postgres' ], '<', \$sql, '>', \$out, '2>', \$err);
	is($? >> 8, 0, $node->name . ': single-user mode') or diag($err);
	like($out, qr/count = "2\d{4}"/, $node->name . ': reads the rows');
	note_files($i, 'WAL of single-user mode', $node->data_dir . '/pg_wal');
	$node->start;
	is($node->safe_psql('postgres', "SET enable_seqscan = off; SELECT i FROM single WHERE body = '$marker single 99'"), '99', $node->name . ': what it wrote is there');
	note_files($i, 'a table of single-user mode', $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('single')"));
	return;
}

for my $i (0, 1) {
	my $node = $clusters[$i];
	# initdb: texts of its own in every cluster
	$found{'a fresh cluster'}[$i] = files_containing('information_schema', $node->data_dir . '/base') > 0 ? 1 : 0;
	$node->append_conf('postgresql.conf', "log_statement = none\nautovacuum = off\nmax_wal_senders = 8\nwal_keep_size = '512MB'\nrestart_after_crash = on\n");
	$node->start;
	$node->safe_psql('postgres', 'CREATE TABLE letters (id int PRIMARY KEY, body text)');
	$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
	my $start = $node->safe_psql('postgres', q{SELECT '0/0'::pg_lsn + div(pg_current_wal_insert_lsn() - '0/0', 16777216) * 16777216});
	$node->safe_psql('postgres', "INSERT INTO letters SELECT i, '$marker ' || i FROM generate_series(1, 20000) i; CHECKPOINT");
	copies($i, $node, $start);
	databases($i, $node);
	archive($i, $node);
	mapped_files($i, $node);
	single_user($i, $node);
}

# logical replication between encrypted clusters: a logical walsender, table synchronisation, an apply worker; and another background worker
my $subscriber = Walcrypt::Node->new('subscriber');
$subscriber->init_encrypted($kek, extra => ['-k']);
$subscriber->append_conf('postgresql.auto.conf', "shared_preload_libraries = '$Walcrypt::layer, pg_prewarm'\n");
$subscriber->start;
$subscriber->safe_psql('postgres', 'CREATE TABLE letters (id int PRIMARY KEY, body text)');
$clusters[1]->safe_psql('postgres', 'CREATE PUBLICATION p FOR TABLE letters');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '" . $clusters[1]->connstr . " dbname=postgres' PUBLICATION p");
$subscriber->wait_for_subscription_sync($clusters[1], 's');
$clusters[1]->safe_psql('postgres', "UPDATE letters SET body = body || ' again' WHERE id <= 10000");
$clusters[1]->wait_for_catchup('s');
my $sum = 'SELECT count(*), sum(hashtext(body)) FROM letters';
is($subscriber->safe_psql('postgres', $sum), $clusters[1]->safe_psql('postgres', $sum), 'logical replication: the subscriber has the rows');
is(join(' ', files_containing($marker, $subscriber->data_dir)), '', 'and only ciphertext on its disk');
my $offset = -s $subscriber->logfile;
$subscriber->restart;
wait_for_file_line($subscriber->logfile, qr/autoprewarm successfully prewarmed \d+ of \d+/, $offset);
pass('a background worker reads blocks in');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');
$subscriber->check_integrity;

for my $what (sort keys %found) {
	is($found{$what}[0], 1, "$what: the marker is found on a stock server");
	is($found{$what}[1], 0, "$what: and not on an encrypted one");
}
$clusters[0]->stop;
$clusters[1]->check_integrity;
is(join(' ', files_containing($marker, $clusters[1]->data_dir)), '', 'the marker is nowhere');
done_testing();
