# pg_rewind between two nodes with different relation keys and one WAL key, from a running source and from a directory: tables of more
# than one segment, free space and visibility maps included. The target keeps its own key directory and gets nothing of the
# source's; from a plain source too, which has none. --dry-run changes nothing.
use strict;
use warnings;
use Digest::SHA;
use File::Find;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $marker = 'MARKER-rewind-c4d01e';
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 512MB\nlog_statement = none\nautovacuum = off\nwal_retrieve_retry_interval = 200ms\n");
$red->start;
$red->safe_psql('postgres', "CREATE EXTENSION pg_freespacemap; CREATE EXTENSION pg_visibility;
	CREATE TABLE t (id int PRIMARY KEY, body text); INSERT INTO t SELECT i, '$marker ' || i FROM generate_series(1, 5000) i;
	CREATE TABLE maps (id int, body text); INSERT INTO maps SELECT i, '$marker ' || i FROM generate_series(1, 5000) i;
	CREATE TABLE large (id int, body text)");
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, map { $_ => { keyset => $_ } } qw(blue green) });
$proxy->key_init($_) for qw(blue green);
$proxy->start;
my %node = (red => $red);
for my $name (qw(blue green)) {
	$node{$name} = Walcrypt::Node->new($name);
	$node{$name}->init_from_proxy($proxy, $name);
	$node{$name}->start;
}
my ($blue, $green) = @node{qw(blue green)};
my $kek = $proxy->kek_uri;
my %shown = map { $_ => ctl('key', 'show', '-D', $node{$_}->data_dir) } qw(blue green);
my %relation = map { $_ => $shown{$_} =~ /^relation key +(\w+)/m } keys %shown;
my %wal = map { $_ => $shown{$_} =~ /epoch 1 +(\w+)/ } keys %shown;
isnt($relation{blue}, $relation{green}, 'the nodes have different relation keys');
is($wal{blue}, $wal{green}, 'and one WAL key');

# A file of 1 GB of new pages in every stopped node: the next row goes to the end of it, and the next segment begins.
sub grow
{
	my ($table, @nodes) = @_;
	my $path = $nodes[0]->safe_psql('postgres', "CHECKPOINT; SELECT pg_relation_filepath('$table')");
	for my $node (@nodes) {
		$node->stop;
		truncate($node->data_dir . "/$path", 1 << 30) or die "$path: $!";
	}
	$_->start for @nodes;
	return $path;
}
$red->wait_for_catchup($_) for qw(blue green);
my $path = grow('large', $red, $blue, $green);
$red->safe_psql('postgres', "INSERT INTO large SELECT i, '$marker ' || i FROM generate_series(1, 3000) i");
$red->wait_for_catchup($_) for qw(blue green);
cmp_ok(-s $green->data_dir . "/$path.1", '>', 8192, 'a table of two segments');
$red->stop;

# blue is the new primary and is followed by green, with WAL as it stands on blue's disk
sub follow
{
	my ($node, $primary) = @_;
	$node->append_conf('postgresql.conf', 'port = ' . $node->port . "\nunix_socket_directories = '" . $node->host . "'\n");
	$node->append_conf('postgresql.auto.conf', 'port = ' . $node->port . "\nunix_socket_directories = '" . $node->host
			. "'\nprimary_conninfo = '" . $primary->connstr_for_proxy . ' application_name=' . $node->name . "'\n");
	$node->set_standby_mode;
	return;
}
$blue->promote;
$green->stop;
follow($green, $blue);
$green->start;

my $facts = join(' UNION ALL ', map { "SELECT '$_', count(*), sum(id::bigint), sum(hashtext(body)) FROM $_" } qw(t maps large));
my $maps = "SELECT (SELECT sum(avail) FROM pg_freespace('maps')), * FROM pg_visibility_map_summary('maps')";

# Names, sizes, modes, times and contents of all files.
sub digest
{
	my ($dir) = @_;
	my @lines;
	find({ no_chdir => 1, wanted => sub {
		my @st = lstat($_);
		push @lines, join(' ', $_, sprintf('%o', $st[2]), @st[ 7, 9 ], -f _ && Digest::SHA->new(1)->addfile($_)->hexdigest);
	} }, $dir);
	return join("\n", sort @lines);
}

sub rewind
{
	my ($target, @options) = @_;
	local %ENV = $target->_get_env;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ 'pg_rewind', '-D', $target->data_dir, @options ], '<', \undef, '>', \$out, '2>', \$err);
	return ($ok, $out . $err);
}

my $source_key = slurp_file($blue->data_dir . '/pg_cryptokeys/live/relation.wkey');
my $round = 0;
for my $how ('server', 'directory') {
	$round++;
	$blue->wait_for_catchup('green', 'replay', $blue->lsn('insert'));
	is($green->safe_psql('postgres', $facts), $blue->safe_psql('postgres', $facts), "$how: both have the same rows");

	# both go on for themselves: rows in both segments, maps, and a large table that only the source has
	$green->promote;
	$green->safe_psql('postgres', "UPDATE large SET body = 'lost'; UPDATE maps SET body = 'lost' WHERE id % 2 = 0; INSERT INTO t SELECT i, 'lost' FROM generate_series(100000, 100500) i;
		CREATE TABLE lost AS SELECT * FROM t; VACUUM maps; CHECKPOINT");
	$blue->safe_psql('postgres', "UPDATE large SET body = '$marker $how ' || id WHERE id % 7 = 0; DELETE FROM maps WHERE id % 10 = $round; UPDATE t SET body = body || '$how' WHERE id % 3 = 0;
		CREATE TABLE new_$how (id int, body text)");
	my $new = grow("new_$how", $blue);
	$blue->safe_psql('postgres', "INSERT INTO new_$how SELECT i, '$marker ' || i FROM generate_series(1, 3000) i; VACUUM maps; CHECKPOINT");
	my $want = $blue->safe_psql('postgres', $facts);
	my $want_maps = $blue->safe_psql('postgres', $maps);
	like($want_maps, qr/^[1-9]\d*\|[1-9]\d*\|/, "$how: the source's maps have something in them");
	isnt($green->safe_psql('postgres', $maps), $want_maps, "$how: which the target's have not");
	$green->stop;
	$blue->stop if $how eq 'directory';

	my @source = $how eq 'server' ? '--source-server=' . $blue->connstr('postgres') : '--source-pgdata=' . $blue->data_dir;
	my $before = digest($green->data_dir);
	my ($ok, $text) = rewind($green, '--dry-run', @source);
	ok($ok, "$how: --dry-run") or diag($text);
	is(digest($green->data_dir), $before, "$how: ... changes nothing");
	if ($how eq 'directory') {
		local $ENV{WALCRYPT_SOURCE_KEK} = 'file:' . kek_file("$tmp/kek_other");
		($ok, $text) = rewind($green, @source);
		ok(!$ok, 'a source that another cluster key should open');
		like($text, qr/wrong cluster key/, '... is an error');
		is(digest($green->data_dir), $before, '... and changes nothing');
	}

	my $keys = digest($green->data_dir . '/pg_cryptokeys');
	my $source_before = digest($blue->data_dir) if $how eq 'directory';
	{
		local $ENV{WALCRYPT_SOURCE_KEK} = $kek;
		($ok, $text) = rewind($green, @source);
	}
	ok($ok, "pg_rewind from a $how") or BAIL_OUT($text);
	is(digest($green->data_dir . '/pg_cryptokeys'), $keys, "$how: the target's key directory is untouched");
	is(join(' ', files_containing($source_key, $green->data_dir)), '', "$how: and the source's relation key is nowhere in it");
	is(digest($blue->data_dir), $source_before, "$how: the source is untouched") if $how eq 'directory';
	cmp_ok(-s $green->data_dir . "/$new", '==', 1 << 30, "$how: the new table's first segment is there");
	cmp_ok(-s $green->data_dir . "/$new.1", '>', 8192, "$how: and its second");
	is(join(' ', files_containing($marker, $green->data_dir)), '', "$how: all ciphertext");

	$blue->start if $how eq 'directory';
	follow($green, $blue);
	$green->start;
	$blue->wait_for_catchup('green', 'replay', $blue->lsn('insert'));
	is($green->safe_psql('postgres', $facts), $want, "$how: the target follows with the source's rows");
	is($green->safe_psql('postgres', $maps), $want_maps, "$how: and its maps");
	is($green->safe_psql('postgres', "SELECT count(*), min(body) FROM new_$how"), "3000|$marker 1", "$how: and its new table");
	is($green->safe_psql('postgres', "SELECT to_regclass('lost') IS NULL"), 't', "$how: and without what it had alone");
	my %files = encrypted_wal_files($green->data_dir . '/pg_wal');
	is(join(' ', grep { $files{$_} !~ /^(encrypted|empty)$/ } keys %files), '', "$how: its WAL is encrypted");
	$green->check_integrity("$how: the rewound node", primary => $blue, restart => 1);
}
is((ctl('key', 'show', '-D', $green->data_dir) =~ /^relation key +(\w+)/m)[0], $relation{green}, 'it still has its own relation key');

# A plain source: red, which was shut down before blue was promoted, goes on by itself, and green, which followed blue, comes back to it.
$green->stop;
$blue->stop;
$red->start;
$red->safe_psql('postgres', "UPDATE t SET body = '$marker red' WHERE id % 5 = 0; CHECKPOINT");
my $want = $red->safe_psql('postgres', $facts);
$red->stop;
my $keys = digest($green->data_dir . '/pg_cryptokeys');
# a target must not have been a standby to its end only: it needs WAL of its own
unlink $green->data_dir . '/standby.signal';
$green->start;
$green->safe_psql('postgres', "INSERT INTO t VALUES (-1, 'lost'); CHECKPOINT");
$green->stop;
my ($ok, $text) = rewind($green, '--source-pgdata=' . $red->data_dir);
ok($ok, 'pg_rewind from a plain directory') or diag($text);
is(digest($green->data_dir . '/pg_cryptokeys'), $keys, 'the key directory, which the source has not, is untouched');
is(join(' ', files_containing($marker, $green->data_dir)), '', 'all ciphertext');
$red->start;
follow($green, $red);
$green->start;
$red->wait_for_catchup('green', 'replay', $red->lsn('insert'));
is($green->safe_psql('postgres', $facts), $want, 'the target follows with the source\'s rows');
$green->check_integrity('rewound to a plain source', primary => $red);
done_testing();
