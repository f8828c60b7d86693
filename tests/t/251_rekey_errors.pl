# Goal: an encrypted upstream whose keys are not those that the configuration says, damaged pages and damaged WAL: each is told by
# name and place, nobody takes a backup for good that is not, and the console knows what passed.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Console;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 512MB\nlog_statement = none\nautovacuum = off\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i; VACUUM t; CHECKPOINT');
my $blue = Walcrypt::Node->new('blue');
my %nodes = (
	red => { conninfo => $red->connstr_for_proxy },
	blue => { keyset => 'blue' }, green => { keyset => 'green' }, other => { keyset => 'other' }, plain => { allow_clear => 'on' });
my $proxy = Walcrypt::Proxy->new(nodes => \%nodes);
$proxy->key_init($_) for qw(blue green);
$proxy->key_init('other', '--own-wal-key');
my ($rc, $out, $err) = ctl_output('key', 'init', 'fourth', '--config', $proxy->conf, '--kek', $proxy->kek_uri);
is($rc, 6, 'a further keyset where there are two WAL keys');
like($err, qr/keysets "\w+" and "\w+" of the cluster have different WAL keys.*--wal-key-of KEYSET/s, 'is not guessed');
ctl('key', 'init', 'fourth', '--config', $proxy->conf, '--kek', $proxy->kek_uri, '--wal-key-of', 'green');
my %id = map { my $name = $_; $name => (ctl('key', 'show', $name, '--config', $proxy->conf, '--json') =~ /"id": *"(\w+)"/)[0] } qw(blue green other fourth);
is($id{fourth}, $id{green}, '--wal-key-of takes that one');
isnt($id{other}, $id{green}, '--own-wal-key made another');
$proxy->start;
$blue->init_from_proxy($proxy, 'blue');
$blue->append_conf('postgresql.conf', "port = " . $blue->port . "\n");
$blue->start;
$red->wait_for_catchup('blue');
$red->stop;
$blue->promote;
$blue->safe_psql('postgres', 'INSERT INTO t SELECT i FROM generate_series(1, 100) i; CHECKPOINT');

# blue is the upstream now; the configuration says something about its keys
sub upstream
{
	my (%says) = @_;
	$nodes{red} = {};
	$nodes{blue} = { conninfo => $blue->connstr_for_proxy, %says };
	$proxy->write_conf;
	$proxy->restart;
	return;
}
my $serial = 0;
sub backup
{
	my ($as, @options) = @_;
	my ($o, $e) = ('', '');
	my $dir = "$tmp/backup_" . ++$serial;
	my $good = IPC::Run::run([ 'pg_basebackup', '-D', $dir, '-d', $proxy->connstr($as), '-c', 'fast', '--no-sync', '-X', 'none', @options ], '<', \undef, '>', \$o, '2>', \$e);
	$e =~ s/^NOTICE:  WAL archiving is not enabled.*\n//m;
	return ($good, $e, $dir);
}
# for pg_receivewal, which comes to the end only with what is behind it
sub end_of_wal
{
	my $end = $blue->lsn('flush');
	$blue->safe_psql('postgres', "SELECT pg_logical_emit_message(true, 'behind', 'the end')");
	return $end;
}
sub receive
{
	my ($as, @options) = @_;
	my ($o, $e) = ('', '');
	my $dir = "$tmp/receive_" . ++$serial;
	mkdir $dir;
	my $end = end_of_wal();
	my $good = IPC::Run::run([ 'pg_receivewal', '-D', $dir, '-d', $proxy->connstr($as), '--no-loop', '--endpos', $end, @options ], '<', \undef, '>', \$o, '2>', \$e);
	return ($good, $e, $dir);
}

my ($good, $dir);
upstream(keyset => 'blue');
($good, $err, $dir) = backup('green');
ok($good && $err eq '', 'the right keyset: a good backup') or diag($err);
($good, $err) = receive('green');
ok($good, 'and WAL') or diag($err);

upstream(keyset => 'none');
($good, $err) = backup('green');
like($err, qr/upstream "blue" is an encrypted server, but its node has no keyset.*HINT:.*Set keyset and kek in \[node blue\]/s, 'no keyset for an encrypted upstream: said by a backup');
($good, $err) = receive('green');
like($err, qr/WAL page at \S+ of timeline \d from the upstream is encrypted.*HINT:.*keyset/s, 'and by a stream');
($good, $err) = receive('plain');
like($err, qr/WAL page at \S+ of timeline \d from the upstream is encrypted/, 'a clear node gets no ciphertext for WAL');

my $log = $proxy->log_size;
upstream(keyset => 'green');
($good, $err, $dir) = backup('plain');
ok(!$good, 'another keyset of the cluster: no backup');
# (of an error in the middle of a base backup stock pg_basebackup shows nothing)
# by what comes first in the archive, which is the file system's affair: a page, or the server's own key directory
like($proxy->log($log), qr/upstream "blue": (the upstream's relation files do not open with its keyset's relation key.*HINT:.*Is the server under keyset "green"|it is encrypted under relation key [0-9a-f]{16}, but keyset "green" of node "blue" has [0-9a-f]{16})/s, 'said by name');
ok(!-e "$dir/backup_manifest", 'and none that looks whole');
($good, $err) = receive('plain');
ok($good, 'its WAL key is the cluster\'s, which is right') or diag($err);

upstream(keyset => 'other');
($good, $err) = receive('green');
like($err, qr/does not open with its keyset's WAL key of epoch 1.*DETAIL:\s+WAL record at [0-9A-F]+\/[0-9A-F]+ /s, 'another WAL key: the stream ends at the first record header, named');
# each in its own class; a restart begins to count anew
sub errors { my ($node) = @_; my ($r) = grep { $_->{node} eq $node } console_rows($proxy, 'SHOW STATS'); return join(' ', map { "$_: " . $r->{"errors_$_"} } grep { $r->{"errors_$_"} } qw(failed usage damaged unreachable wrong_key refused)); }
is(errors('green'), 'wrong_key: 1', '... counted as that');

# a clear server that is said to be encrypted
$blue->stop;
$nodes{red} = { conninfo => $red->connstr_for_proxy, keyset => 'blue' };
$nodes{blue} = { keyset => 'blue' };
unlink $proxy->keystore . '/timelines';
$proxy->write_conf;
$proxy->restart;
$red->start;
$log = $proxy->log_size;
($good, $err) = backup('green');
ok(!$good, 'a keyset for a clear upstream: no backup');
like($proxy->log($log), qr/upstream "red": the upstream's relation files do not open with its keyset's relation key/, 'said by name');
($good, $err) = receive_red('green');
like($err, qr/WAL page at \S+ of timeline 1 from the upstream is not encrypted.*HINT:.*conninfo/s, 'and by a stream');
$red->stop;

sub receive_red { my ($as) = @_; my $was = $blue; $blue = $red; my @r = receive($as); $blue = $was; return @r; }

# damage on the upstream's disk
unlink $proxy->keystore . '/timelines';
$blue->start;
upstream(keyset => 'blue');
my $file = $blue->safe_psql('postgres', "SELECT pg_relation_filepath('t')");
sub change
{
	my ($path, $at) = @_;
	open(my $f, '+<:raw', $blue->data_dir . "/$path") or die "$path: $!";
	seek($f, $at, 0);
	read($f, my $old, 4) == 4 or die;
	seek($f, $at, 0);
	print $f ~$old;
	close $f;
	return;
}
$blue->safe_psql('postgres', 'CHECKPOINT');
change($file, 8192 * 20 + 4000);
for my $as (qw(green plain)) {
	($good, $err, $dir) = backup($as);
	ok(!$good, "a damaged page: the backup for $as fails");
	is(scalar(() = $err =~ m{WARNING:  checksum verification failed in file "(\./)?$file", block 20: calculated [0-9A-F]+ but expected [0-9A-F]+}g), 1, 'file and block are named, once') or diag($err);
	like($err, qr/checksum error occurred/, 'at its end, as pg_basebackup knows it');
}
($good, $err) = backup('green', '--no-verify-checksums');
ok($good, 'with --no-verify-checksums nobody looks') or diag($err);

# where the storage layer may not change program text nobody looks there: the proxy still finds it
system_or_bail('gcc', '-shared', '-fPIC', '-D_GNU_SOURCE', '-o', "$tmp/locked_text_251.so", "$FindBin::RealBin/../preload/locked_text.c");
$blue->stop;
{
	local $Walcrypt::layer = "$tmp/locked_text_251.so:$Walcrypt::layer";
	$blue->start;
}
change($file, 8192 * $_ + 4000) for 21 .. 30;
($good, $err) = backup('green');
ok(!$good, 'an upstream that cannot verify: the proxy does');
is(scalar(() = $err =~ m{WARNING:  checksum verification failed in file "$file", block 2\d}g), 5, 'five pages are named') or diag($err);
like($err, qr/WARNING:  11 total checksum verification failures.*checksum error occurred/s, 'the others counted, and the backup fails at its end');
like($proxy->log, qr/checksum verification failed in file "$file", block 20/, 'the log has them');
change($file, 8192 * $_ + 4000) for 20 .. 30;
($good, $err) = backup('green');
ok($good, 'repaired, the backup is good') or diag($err);

# damage in WAL that lies on the upstream's disk
$blue->safe_psql('postgres', 'SELECT pg_switch_wal(); INSERT INTO t SELECT i FROM generate_series(1, 50000) i');
my $segment = $blue->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
$blue->safe_psql('postgres', 'SELECT pg_switch_wal()');
$blue->command_ok([ 'pg_receivewal', '-d', $proxy->connstr('green'), '-S', 'keep', '--create-slot' ], 'a slot');
sub receive_from
{
	my ($as, $from) = @_;
	my $to = "$tmp/receive_" . ++$serial;
	mkdir $to;
	# it begins behind the last whole segment that is there
	system_or_bail('truncate', '-s', '16M', "$to/" . sprintf('%s%08X', substr($from, 0, 16), hex(substr($from, 16)) - 1));
	my $end = end_of_wal();
	my ($o, $e) = ('', '');
	my $fine = IPC::Run::run([ 'pg_receivewal', '-D', $to, '-d', $proxy->connstr($as), '--no-loop', '--endpos', $end ], '<', \undef, '>', \$o, '2>', \$e);
	return ($fine, $e, $to);
}
($good, $err) = receive_from('green', $segment);
ok($good, 'WAL before the damage') or diag($err);
change("pg_wal/$segment", 500 * 1024);
for my $as (qw(green other plain)) {
	($good, $err) = receive_from($as, $segment);
	ok(!$good, "damaged WAL for $as: the stream ends");
	my ($lsn) = $err =~ /the upstream's stream is damaged: WAL record at ([0-9A-F]+\/[0-9A-F]+) has an incorrect checksum/;
	ok(defined $lsn, 'its record is named') or diag($err);
	next unless defined $lsn;
	my $distance = $blue->safe_psql('postgres', "SELECT pg_walfile_name('$lsn') || ' ' || file_offset FROM pg_walfile_name_offset('$lsn')");
	my ($name, $offset) = split ' ', $distance;
	ok($name eq $segment && $offset <= 500 * 1024 && $offset > 490 * 1024, "it is the one that holds the byte: $distance");
}
is(errors('plain'), 'damaged: 1', 'counted as damage');
$blue->safe_psql('postgres', "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");

# what the console knows of a stream
my $plain = Walcrypt::Node->new('plain');
mkdir $_ for $plain->backup_dir, $plain->archive_dir;
command_ok([ 'pg_basebackup', '-D', $plain->data_dir, '-d', $proxy->connstr('plain') . ' application_name=plain', '-c', 'fast', '--no-sync', '-R' ], 'a clear standby');
$plain->append_conf('postgresql.auto.conf', 'port = ' . $plain->port . "\nunix_socket_directories = '" . $plain->host . "'\nwal_retrieve_retry_interval = 300ms\n");
$plain->start;
$blue->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
$blue->wait_for_catchup('plain');
sub shown { my ($column) = @_; my @rows = split /\n/, $proxy->console('SHOW SESSIONS'); my @r = grep { (split /\|/)[1] eq 'plain' && (split /\|/)[4] eq 'stream' } @rows; return @r ? (split(/\|/, $r[0], -1))[$column] // '' : ''; }
my $now = time();
like(shown(16), qr/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$/, 'the last commit\'s time is shown');
my @t = shown(16) =~ /^(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+)/;
require Time::Local;
cmp_ok(abs(Time::Local::timegm($t[5], $t[4], $t[3], $t[2], $t[1] - 1, $t[0]) - $now), '<', 60, 'and it is now');
is(shown(17), '', 'no shutdown checkpoint has passed');
$plain->stop;

# nobody to get anything from
$blue->stop;
$proxy->restart;
($good, $err) = backup('other');
like($err, qr/could not connect to upstream "blue"/, 'without an upstream: said');
is(errors('other'), 'unreachable: 1', '... and counted as that');
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
