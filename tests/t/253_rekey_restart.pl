# Goal: an encrypted upstream that is restarted in the middle of a WAL page goes on in that page under another generation (R7, 101).
# Who reads it through the proxy holds the page's beginning, under its own WAL key, the same or in clear: a standby of each, a cascading
# one, and a pg_receivewal go on by themselves, read no garbage, and have the same rows; the archive can be read to its end.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $marker = 'marker-253-mitten-im-satz';
my $tmp = PostgreSQL::Test::Utils::tempdir();
my $quiet = "log_statement = none\nautovacuum = off\nbgwriter_lru_maxpages = 0\nwal_keep_size = 256MB\nwal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 100ms\n";
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', $quiet);
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i AS id, '$marker' || i AS body FROM generate_series(1, 1000) i");

my %node = map { $_ => Walcrypt::Node->new($_) } qw(blue same other grey cascade);
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy }, blue => { conninfo => $node{blue}->connstr_for_proxy, keyset => 'blue' },
	same => { keyset => 'same' }, other => { keyset => 'other' }, grey => { allow_clear => 'on' }, archive => { keyset => 'archive', profile => 1 } });
$proxy->key_init('blue');
$proxy->key_init('same', '--wal-key-of', 'blue');
$proxy->key_init($_, '--own-wal-key') for qw(other archive);
$proxy->start;

# blue becomes the encrypted primary, the others stand behind it
my $blue = $node{blue};
$blue->init_from_proxy($proxy, 'blue');
$blue->start;
$blue->take_over($red);
for my $name (qw(same other grey)) {
	$node{$name}->init_from_proxy($proxy, $name);
	$node{$name}->use_layer(undef) if $name eq 'grey';
	$node{$name}->start;
}
$node{other}->backup('for_cascade');
$node{cascade}->init_from_backup($node{other}, 'for_cascade', has_streaming => 1);
# the copied file says where "other" is and where it streams from
$node{cascade}->append_conf('postgresql.auto.conf', 'port = ' . $node{cascade}->port . "\nunix_socket_directories = '" . $node{cascade}->host . "'\nprimary_conninfo = '"
	. $node{other}->connstr . " application_name=cascade'\n");
$node{cascade}->use_layer($proxy->kek_uri);
$node{cascade}->start;
my @standbys = @node{qw(same other grey cascade)};

my $archive = "$tmp/archive";
mkdir $archive;
my $log = "$PostgreSQL::Test::Utils::log_path/253_received.log";
my $receivewal = IPC::Run::start([ 'pg_receivewal', '-D', $archive, '-d', $proxy->connstr('archive') . ' application_name=receivewal' ], '<', \undef, '>', $log, '2>&1');

sub streams
{
	wait_for('all to stream', sub {
		($blue->psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"))[1] eq '4'
			&& $node{other}->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_replication') == 1; });
	return;
}
sub caught_up
{
	my $lsn = $blue->lsn('flush');
	for my $node (@standbys) {
		wait_for('the replay of ' . $node->name, sub { $node->safe_psql('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'") eq 't' });
	}
	return;
}

streams();
my ($rows, $in_page) = (1000, 0);
for my $round (1 .. 4) {
	$blue->safe_psql('postgres', "INSERT INTO t SELECT i, '$marker' || i FROM generate_series($rows + 1, $rows + 37) i");
	$rows += 37;
	caught_up();
	$round % 3 ? $blue->restart : ($blue->stop('immediate'), $blue->start);
	$in_page++ if hex($blue->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()') =~ s{.*/}{}r) % 8192 > 24;
	streams();    # everybody has the page's beginning again before the next byte is written
	# a small record, flushed at once: it lands in the page that was begun before the restart
	$rows++;
	$blue->safe_psql('postgres', "INSERT INTO t VALUES ($rows, 'small')");
	caught_up();
	my $sum = 'SELECT count(*), sum(id), sum(hashtext(body)) FROM t';
	is($_->safe_psql('postgres', $sum), $blue->safe_psql('postgres', $sum), "round $round: the rows of " . $_->name) for @standbys;
}
cmp_ok($in_page, '>', 0, "restarts fell into pages: $in_page");

# fill the segment, so that pg_receivewal finishes it
my $last = $blue->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
$blue->safe_psql('postgres', "SELECT pg_switch_wal(); INSERT INTO t VALUES (-$_, 'switched')") for 1 .. 2;
caught_up();
wait_for('pg_receivewal', sub { -f "$archive/$last" });
$receivewal->signal('INT');
$receivewal->finish;
my %wal = encrypted_wal_files($archive);
is(join(' ', grep { $wal{$_} ne 'encrypted' } keys %wal), '', 'the archive holds only ciphertext');
is(scalar(() = files_containing($marker, $archive, map { $_->data_dir } @node{qw(same other cascade)})), 0, 'the marker is in none of them');
cmp_ok(scalar(() = files_containing($marker, $node{grey}->data_dir)), '>', 0, 'the search finds it in the clear one');
my @files = sort grep { !/partial/ } keys %wal;
mkdir "$tmp/clear";
ctl('wal', (map { "$archive/$_" } @files), '--decrypt', "$tmp/clear", '--config', $proxy->conf, '--keyset', 'archive');
my ($out, $err) = ('', '');
IPC::Run::run([ 'pg_waldump', '-q', '-p', "$tmp/clear", $files[0], $last ], '<', \undef, '>', \$out, '2>', \$err);
is($err =~ s/.*invalid record length at [^:]*: wanted 24, got 0\n?//r, '', 'stock pg_waldump reads it, decrypted, to its end');

for my $node (@standbys) {
	unlike(slurp_file($node->logfile), qr/incorrect prev-link|incorrect resource manager|contrecord is requested|unexpected pageaddr|PANIC/,
		$node->name . ' never read what it could not understand');
}
for my $node (@node{qw(cascade same other)}) {
	$node->check_integrity($node->name, primary => $blue);
	my ($rc, $o, $e) = ctl_output('verify', '-D', $node->data_dir, '--kek', $proxy->kek_uri);
	is($rc, 0, $node->name . ': walcrypt-ctl verify is clean') or diag($o, $e);
}
$blue->check_integrity('blue');
is($proxy->stop, 0, 'the proxy stops in good order');
unlike($proxy->log, qr/is damaged|differs from what was sent/, "nothing bad in its log");
done_testing();
