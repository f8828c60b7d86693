# Goal: incremental base backups of 17 and later through the proxy: blocks are encrypted one by one, stock pg_combinebackup puts them
# together, the result starts and has every row; a manifest of a backup under another relation key is refused. From a clear
# primary and, after a promotion, from an encrypted one.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

use_postgres(17) if postgres_major() < 17;

my $marker = 'marker-255-zuwachs';
my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $test = File::Basename::basename($0, '.pl');
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 512MB\nsummarize_wal = on\nautovacuum = off\nwal_summary_keep_time = 0\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, '$marker' || i AS text FROM generate_series(1, 60000) i; CREATE INDEX ON t (i);
	CREATE TABLE still AS SELECT i, repeat('x', 500) AS text FROM generate_series(1, 3000) i; VACUUM t, still; CHECKPOINT");
my $up = $red;
my $blue = Walcrypt::Node->new('blue');
my %nodes = (red => { conninfo => $red->connstr_for_proxy }, blue => { conninfo => $blue->connstr_for_proxy, keyset => 'blue' },
	green => { keyset => 'green' }, plain => { allow_clear => 'on' });
my $proxy = Walcrypt::Proxy->new(nodes => \%nodes);
$proxy->key_init($_) for qw(blue green);
$proxy->start;

sub dir { my ($name) = @_; return "$tmp/${test}_$name"; }
sub backup
{
	my ($as, $name, @options) = @_;
	my ($o, $e) = ('', '');
	my $good = IPC::Run::run([ 'pg_basebackup', '-D', dir($name), '-d', $proxy->connstr($as), '-c', 'fast', '--no-sync', '-X', 'fetch', @options ], '<', \undef, '>', \$o, '2>', \$e);
	return ($good, $e);
}
my $facts = 'SELECT count(*), sum(i), sum(hashtext(text)) FROM t UNION ALL SELECT count(*), sum(i), sum(hashtext(text)) FROM still';
my $serial = 0;

# a full backup, two incremental ones upon each other, put together and started
sub chain
{
	my ($as) = @_;
	my $from = $up->name . ' -> ' . $as;
	my $key = $as ne 'plain';
	my @names = map { $as . ++$serial } 1 .. 3;
	for my $i (0 .. 2) {
		my ($good, $err) = backup($as, $names[$i], $i == 0 ? () : ('--incremental', dir($names[$i - 1]) . '/backup_manifest'), $i == 1 ? '--manifest-force-encode' : ());
		ok($good, "$from: backup $i") or diag($err);
		my @verify = $key ? ('-n') : ();
		command_ok([ 'pg_verifybackup', @verify, dir($names[$i]) ], "$from: pg_verifybackup of backup $i");
		is(scalar(() = files_containing($marker, dir($names[$i]))) > 0 ? 1 : 0, $key ? 0 : 1, "$from: the marker in backup $i");
		my @parts = glob(dir($names[$i]) . '/base/*/INCREMENTAL.*');
		cmp_ok(scalar @parts, $i == 0 ? '==' : '>', 0, "$from: backup $i has " . scalar @parts . ' incremental files');
		my ($still) = $up->safe_psql('postgres', "SELECT pg_relation_filepath('still')") =~ m{(.*)/(\d+)$};
		cmp_ok(-s dir($names[$i]) . "/$1/INCREMENTAL.$2", '<', 100, "$from: one without blocks among them") if $i > 0;
		$up->safe_psql('postgres', "UPDATE t SET text = '$marker changed $_' || i WHERE i % 1000 = $_; CHECKPOINT") for 3 * $serial + $i;
		$up->safe_psql('postgres', "INSERT INTO t SELECT i, '$marker new' FROM generate_series(1, 2000) i") if $i == 1;
	}
	# what the last backup has: all but the last change
	my $combined = Walcrypt::Node->new("combined_$as$serial");
	mkdir $_ for $combined->backup_dir, $combined->archive_dir;
	command_ok([ 'pg_combinebackup', '--no-sync', '-o', $combined->data_dir, map { dir($_) } @names ], "$from: stock pg_combinebackup");
	my @verify = $key ? ('-n') : ();
	command_ok([ 'pg_verifybackup', @verify, $combined->data_dir ], "$from: pg_verifybackup of what it made");
	chmod 0700, $combined->data_dir;
	# follow the primary through the proxy to compare
	append_to_file($combined->data_dir . '/standby.signal', '');
	$combined->append_conf('postgresql.auto.conf', 'port = ' . $combined->port . "\nunix_socket_directories = '" . $combined->host . "'\nlisten_addresses = ''\n"
		. "primary_conninfo = '" . $proxy->connstr($as) . ' application_name=' . $combined->name . "'\n");
	$combined->use_layer($proxy->kek_uri) if $key;
	$combined->start;
	$up->wait_for_catchup($combined->name);
	is($combined->safe_psql('postgres', $facts), $up->safe_psql('postgres', $facts), "$from: it follows and has every row");
	# (Not by an index-only scan: WAL summaries of these versions do not have the visibility map's cleared bits, so a stock
	# combination, without a proxy too, finds some rows twice that way.)
	my $by_index = 'SELECT count(text), sum(hashtext(text)) FROM t WHERE i BETWEEN 100 AND 40000';
	is($combined->safe_psql('postgres', "SET enable_seqscan = off; SET enable_indexonlyscan = off; $by_index"), $up->safe_psql('postgres', $by_index), "$from: by its index too");
	$combined->stop;
	if ($key) {
		my ($rc, $o, $e) = ctl_output('verify', '-D', $combined->data_dir, '--kek', $proxy->kek_uri);
		is($rc, 0, "$from: walcrypt-ctl verify is clean") or diag($o, $e);
	}
	return @names;
}

my @blue = chain('blue');
my @plain = chain('plain');
my @green = chain('green');

# under another relation key: refused, and nothing is left that looks like a backup
for my $row ([ green => $blue[0], qr/the manifest is of a backup under relation key [0-9a-f]{16}, but "green" has [0-9a-f]{16}/ ],
	[ blue => $plain[2], qr/the manifest is of a backup without walcrypt's keys, but "blue" has relation key/ ],
	[ plain => $green[1], qr/the manifest is of a backup under relation key [0-9a-f]{16}, but "plain" is clear/ ]) {
	my ($as, $base, $text) = @$row;
	my ($good, $err) = backup($as, "refused_$as", '--incremental', dir($base) . '/backup_manifest');
	ok(!$good, "an incremental backup for $as upon $base: refused");
	like($err, $text, 'with the keys named');
	like($err, qr/HINT:.*take a full backup as "$as" first/, 'and what to do');
	ok(!-e dir("refused_$as") . '/backup_manifest', 'no backup is left');
}
{
	open(my $f, '>', dir('garbage')) or die;
	print $f "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n", 'x' x 300000, "\n";
	close $f;
	my ($good, $err) = backup('plain', 'from_garbage', '--incremental', dir('garbage'));
	like($err, qr/could not upload manifest|could not parse|manifest/, 'garbage: the server says what is wrong with it');
	($good, $err) = backup('plain', 'after_garbage');
	ok($good, 'and the proxy lives on') or diag($err);
}

# a client that stops in the middle of its manifest is ended after client_stall_timeout; one that goes on, however slowly, is not
$proxy->{settings}{client_stall_timeout} = '6s';
$proxy->write_conf;
is($proxy->console('RELOAD'), 'RELOAD', 'RELOAD for client_stall_timeout');
my %upload = map {
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'blue', replication => 'true', application_name => "uploads_$_");
	$c->until('Z');
	$c->send('Q', "UPLOAD_MANIFEST\0");
	is(($c->until('GE'))[0], 'G', "a manifest is begun: it $_");
	$_ => $c;
} qw(stops half goes_on);
sub uploads { return $red->safe_psql('postgres', q{SELECT coalesce(string_agg(application_name, ' ' ORDER BY application_name), '') FROM pg_stat_activity WHERE application_name ~ '^uploads'}); }
is(uploads(), 'uploads_goes_on uploads_half uploads_stops', 'each has its walsender');
$upload{stops}->send('d', '{ "PostgreSQL-Backup-Manifest-Version": 2,');
$upload{half}->raw('d' . pack('N', 1000) . '{ ');
my $begin = time();
wait_for('those that say nothing to be ended', sub { $upload{goes_on}->send('d', ' '); select(undef, undef, undef, 0.1); uploads() eq 'uploads_goes_on' });
wait_for('more than their time', sub { $upload{goes_on}->send('d', ' '); select(undef, undef, undef, 0.1); time() - $begin > 14 });
for my $who (qw(stops half)) {
	my ($seen, $body) = $upload{$who}->until('E');
	like({ Walcrypt::Wire::fields($body) }->{M} // '', qr/^the client has been silent for 6 s/, "... and told so: it $who");
}
is(uploads(), 'uploads_goes_on', 'one that says a little is not');
$upload{goes_on}->send('c', '');
my ($seen, $body) = $upload{goes_on}->until('ZE');
unlike({ Walcrypt::Wire::fields($body) }->{M} // '', qr/silent/, '... and is answered by the server in the end');
undef %upload;
delete $proxy->{settings}{client_stall_timeout};
$proxy->write_conf;
$proxy->console('RELOAD');

# from an encrypted primary
$blue->init_from_proxy($proxy, 'blue');
$blue->append_conf('postgresql.conf', "port = " . $blue->port . "\n");
$blue->start;
$red->wait_for_catchup('blue');
$red->stop;
$blue->promote;
$up = $blue;
$blue->safe_psql('postgres', 'CHECKPOINT');
chain('green');
chain('plain');
$blue->stop;
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
