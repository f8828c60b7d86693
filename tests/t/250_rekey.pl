# Goal: every upstream serves every downstream: clear, under key A, under key B (another relation key, another WAL key, another cluster key),
# nine pairs, for base backups and for WAL. The upstream changes twice by promotion: red (clear), then a (key A), then b (key B).
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;

my $marker = 'marker-250-umgeschluesselt';
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 512MB\nlog_statement = none\nwal_retrieve_retry_interval = 300ms\n");
$red->start;
my $space = PostgreSQL::Test::Utils::tempdir();
mkdir "$space/red";
$red->safe_psql('postgres', "CREATE TABLESPACE ts LOCATION '$space/red'");
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, '$marker' || i AS text FROM generate_series(1, 20000) i; CREATE INDEX ON t (text);
	CREATE TABLE t_ts TABLESPACE ts AS SELECT i, '$marker' || i AS text FROM generate_series(1, 3000) i; CHECKPOINT");

# each downstream by name; a node can become the upstream
my %node = map { $_ => Walcrypt::Node->new($_) } qw(a b clear1 a2 b2 clear2 a3 b3 clear3);
my $kek_b = 'file:' . kek_file("$space/kek_b");
my $proxy = Walcrypt::Proxy->new(keks => { b => $kek_b }, nodes => {
	red => { conninfo => $red->connstr_for_proxy },
	(map { $_ => { conninfo => $node{$_}->connstr_for_proxy, keyset => substr($_, 0, 1), kek => /^b/ ? 'b' : 'site' } } qw(a b a2 b2 a3 b3)),
	(map { $_ => { allow_clear => 'on' } } qw(clear1 clear2 clear3)) });
# the cluster key of a node, and the one that is not its own
sub keks_of { my ($name) = @_; my @keks = ($proxy->kek_uri, $kek_b); return $name =~ /^b/ ? reverse @keks : @keks; }
$proxy->key_init('a');
$proxy->key_init('b', '--own-wal-key');
$proxy->start;

my $facts = "SELECT 't', count(*), sum(i), sum(hashtext(text)) FROM t UNION ALL SELECT 't_ts', count(*), sum(i), sum(hashtext(text)) FROM t_ts ORDER BY 1";
my $serial = 0;

# Build NAME from the present upstream, start it and let it stream.
sub downstream
{
	my ($up, $name, $wal) = @_;
	my $n = $node{$name};
	my $clear = $name =~ /^clear/;
	my ($dir, $from) = ($n->data_dir, $up->name);
	my ($ts) = map { readlink } glob($up->data_dir . '/pg_tblspc/*');
	mkdir $_ for $n->backup_dir, $n->archive_dir;
	my $log = $proxy->log_size;
	command_ok([ 'pg_basebackup', '-D', $dir, '-d', $proxy->connstr($name) . " application_name=$name", '--checkpoint=fast', '--no-sync', '-R', '-X', $wal, '-T', "$ts=$space/$name" ],
		"$from -> $name: base backup, -X $wal");
	command_ok([ 'pg_verifybackup', ($clear ? () : '-n'), $dir ], "$from -> $name: stock pg_verifybackup passes");
	cmp_ok(scalar(() = files_containing($marker, $dir, "$space/$name")), $clear ? '>' : '==', 0, "$from -> $name: the marker is " . ($clear ? 'there' : 'nowhere'));
	my %what = encrypted_wal_files("$dir/pg_wal");
	my $want = $clear ? 'clear' : 'encrypted';
	is_deeply([ grep { $what{$_} ne $want } sort keys %what ], [], "$from -> $name: its WAL is $want");
	is(-d "$dir/pg_cryptokeys", $clear ? undef : 1, "$from -> $name: a key directory " . ($clear ? 'is not there' : 'is there'));
	my $conf = slurp_file("$dir/postgresql.auto.conf");
	is(scalar(() = $conf =~ /libwalcrypt-storage/g), $clear ? 0 : 1, "$from -> $name: the guard stands there " . ($clear ? 'no more' : 'once'));
	$n->append_conf('postgresql.auto.conf', 'port = ' . $n->port . "\nunix_socket_directories = '" . $n->host . "'\n");
	if (!$clear) {
		my ($own, $other) = keks_of($name);
		is((ctl_output('key', 'verify', '-D', $dir, '--kek', $own))[0], 0, "$from -> $name: its keys open with its own cluster key");
		is((ctl_output('key', 'verify', '-D', $dir, '--kek', $other))[0], 5, "$from -> $name: ... and not with the other one's");
		my $keyset = substr($name, 0, 1);
		is(slurp_file("$dir/pg_cryptokeys/live/$_"), slurp_file($proxy->keystore . "/$keyset/live/$_"), "$from -> $name: $_ is its keyset's") for qw(relation.wkey wal.wkey keyset.json);
		$n->use_layer($own);
	}
	$n->start;
	$up->safe_psql('postgres', "INSERT INTO t SELECT i, '$marker more' || i FROM generate_series(1, 500) i; DELETE FROM t WHERE i % 97 = " . ++$serial . "; SELECT pg_switch_wal(); INSERT INTO t_ts VALUES ($serial, 'end')");
	$up->wait_for_catchup($name);
	is($n->safe_psql('postgres', $facts), $up->safe_psql('postgres', $facts), "$from -> $name: streams, the same rows");
	is($up->safe_psql('postgres', "SELECT state FROM pg_stat_replication WHERE application_name = '$name'"), 'streaming', "$from -> $name: by its own name");
	cmp_ok(scalar(() = files_containing($marker, "$dir/pg_wal")), $clear ? '>' : '==', 0, "$from -> $name: the marker in its WAL");
	unlike(slurp_file($n->logfile), qr/incorrect|invalid|PANIC|could not receive/, "$from -> $name: it read no garbage");
	return $n;
}

sub check_stopped
{
	my ($name) = @_;
	$node{$name}->stop;
	return if $name =~ /^clear/;
	my ($rc, $out, $err) = ctl_output('verify', '-D', $node{$name}->data_dir, '--kek', (keks_of($name))[0]);
	is($rc, 0, "$name: walcrypt-ctl verify is clean") or diag($out, $err);
	return;
}

my ($marked) = files_containing($marker, $red->data_dir . '/base');
ok(defined $marked, 'the scan finds the marker in the clear primary');
downstream($red, 'clear1', 'stream');
downstream($red, 'a', 'fetch');
downstream($red, 'b', 'stream');

# from a
$red->stop;
$node{a}->promote;
for my $name (qw(b clear1)) {
	$node{a}->safe_psql('postgres', "INSERT INTO t VALUES (1, '$name follows')");
	$node{a}->wait_for_catchup($name);
	is($node{$name}->safe_psql('postgres', $facts), $node{a}->safe_psql('postgres', $facts), "$name follows the promoted, encrypted node");
}
is($node{b}->safe_psql('postgres', 'SELECT received_tli FROM pg_stat_wal_receiver'), '2', 'on its timeline');
downstream($node{a}, 'clear2', 'fetch');
downstream($node{a}, 'a2', 'stream');
downstream($node{a}, 'b2', 'fetch');
check_stopped($_) for qw(clear1 clear2 a2 b2);

# the keys of one open nothing of the other
for my $pair ([ 'a2', 'b2' ], [ 'b2', 'a2' ]) {
	my ($keys, $files) = map { $node{$_}->data_dir } @$pair;
	my $mixed = PostgreSQL::Test::Utils::tempdir() . '/mixed';
	system_or_bail('cp', '-a', $files, $mixed);
	system_or_bail('rm', '-r', "$mixed/pg_cryptokeys");
	system_or_bail('cp', '-a', "$keys/pg_cryptokeys", "$mixed/pg_cryptokeys");
	my ($rc, $out, $err) = ctl_output('verify', '-D', $mixed, '--kek', (keks_of($pair->[0]))[0]);
	is($rc, 3, "the keys of $pair->[0] do not open the files of $pair->[1]");
	my ($kek) = map { s/^file://r } keks_of($pair->[0]);
	my ($readable, $pages) = readable_pages("$keys/pg_cryptokeys", $kek, $files);
	ok($readable == 0 && $pages > 500, "... none of $pages pages of its relation files");
}

# from b
$node{a}->wait_for_catchup('b');
$node{a}->stop;
$node{b}->promote;
downstream($node{b}, 'clear3', 'stream');
downstream($node{b}, 'a3', 'fetch');
downstream($node{b}, 'b3', 'stream');

# back to where it began: a clear server that can be promoted without the layer
$node{b}->wait_for_catchup('clear3');
my $rows = $node{b}->safe_psql('postgres', $facts);
check_stopped($_) for qw(a3 b3 b);
$node{clear3}->promote;
is($node{clear3}->safe_psql('postgres', $facts), $rows, 'the clear node is promoted and has every row');
$node{clear3}->stop;
command_ok([ 'pg_checksums', '--check', '-D', $node{clear3}->data_dir ], 'its pages are whole: stock pg_checksums');
is($proxy->stop, 0, 'the proxy stops in good order');
unlike($proxy->log, qr/is damaged|FATAL/, 'nothing bad in its log');
done_testing();
