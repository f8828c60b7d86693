# A clean restart of an encrypted primary in the middle of a WAL page (finding R7): the page goes on under another generation,
# while a standby, a cascading standby and a pg_receivewal hold its beginning. All of them go on, and the archive is readable.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $kek = 'file:' . kek_file("$PostgreSQL::Test::Utils::tmp_check/kek_101");
my $quiet = "log_statement = none\nlog_replication_commands = on\nwal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 100ms\n";

my $primary = Walcrypt::Node->new('primary');
$primary->init_encrypted($kek, allows_streaming => 1, extra => ['-k']);
$primary->append_conf('postgresql.conf', "$quiet\nautovacuum = off\nbgwriter_lru_maxpages = 0\nwal_keep_size = '256MB'\n");
$primary->start;
$primary->safe_psql('postgres', 'CREATE TABLE t (id int, body text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 1000) i');

sub standby_of
{
	my ($name, $from) = @_;
	my $node = Walcrypt::Node->new($name);
	$from->backup("for_$name");
	$node->init_from_backup($from, "for_$name", has_streaming => 1);
	$node->use_layer($kek);
	$node->append_conf('postgresql.conf', $quiet);
	$node->start;
	return $node;
}
my $standby = standby_of('standby', $primary);
my $cascade = standby_of('cascade', $standby);

my $archive = "$PostgreSQL::Test::Utils::tmp_check/received";
mkdir $archive;
my $log = "$PostgreSQL::Test::Utils::log_path/received.log";
my $receivewal = IPC::Run::start([ 'pg_receivewal', '-D', $archive, '-d', $primary->connstr . ' application_name=receivewal' ], '<', \undef, '>', $log, '2>&1');

sub caught_up
{
	my $lsn = $primary->lsn('flush');
	for my $node ($standby, $cascade) {
		wait_for('the replay of ' . $node->name, sub { $node->safe_psql('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'") eq 't' });
	}
	return;
}

sub streams
{
	wait_for('all to stream', sub {
		$primary->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_replication') == 2
			&& $standby->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_replication') == 1; });
	return;
}

streams();
my $rows = 1000;
my $in_page = 0;
for my $round (1 .. 6) {
	$primary->safe_psql('postgres', "INSERT INTO t SELECT i, md5(i::text) FROM generate_series($rows + 1, $rows + 37) i");
	$rows += 37;
	caught_up();
	$round % 3 ? $primary->restart : ($primary->stop('immediate'), $primary->start);
	$in_page++ if hex($primary->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()') =~ s{.*/}{}r) % 8192 > 24;
	streams();    # everybody has the page's beginning again before the next byte is written
	# a small record, flushed at once: it lands in the page that was begun before the restart
	$primary->safe_psql('postgres', "INSERT INTO t VALUES (0, 'small')");
	$rows++, $primary->safe_psql('postgres', "UPDATE t SET id = $rows WHERE id = 0");
	caught_up();
	my $sum = 'SELECT count(*), sum(id), sum(hashtext(body)) FROM t';
	is($_->safe_psql('postgres', $sum), $primary->safe_psql('postgres', $sum), "round $round: the rows of " . $_->name) for $standby, $cascade;
}
cmp_ok($in_page, '>', 0, 'restarts fell into pages');

# the standby restarts and the cascading one goes on
$standby->restart;
streams();
$primary->safe_psql('postgres', "INSERT INTO t VALUES (-1, 'after')");
caught_up();
is($cascade->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id = -1'), '1', 'the cascading standby goes on after a restart of its upstream');

# fill the segment, so that pg_receivewal finishes it; then every record of the archive can be read
my $begin = $primary->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
$primary->safe_psql('postgres', "SELECT pg_switch_wal(); INSERT INTO t VALUES (-2, 'switched'); SELECT pg_switch_wal(); INSERT INTO t VALUES (-3, 'switched')");
caught_up();
wait_for('pg_receivewal', sub { -f "$archive/$begin" });
$receivewal->signal('INT');
$receivewal->finish;
my %wal = encrypted_wal_files($archive);
is(join(' ', grep { $wal{$_} ne 'encrypted' } keys %wal), '', 'the archive holds only ciphertext');
# the end of a dump is a switch record or the end of the file; damage would say what it could not read
my @files = sort grep { !/partial/ } keys %wal;
my ($out, $err) = ('', '');
{
	local %ENV = $primary->_get_env;
	IPC::Run::run([ 'pg_waldump', '-q', '-p', $archive, $files[0], $begin ], '<', \undef, '>', \$out, '2>', \$err);
}
is($err =~ s/.*invalid record length at [^:]*: wanted 24, got 0\n?//r, '', 'pg_waldump reads the archive to its end');
for my $node ($standby, $cascade) {
	my $text = slurp_file($node->logfile);
	unlike($text, qr/incorrect prev-link|incorrect resource manager|contrecord is requested|unexpected pageaddr/, $node->name . ' never read what it could not understand');
}
$_->check_integrity($_->name, primary => $primary) for $cascade, $standby, $primary;
done_testing();
