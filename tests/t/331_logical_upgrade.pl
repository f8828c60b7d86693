# Goal: the commands of docs/upgrade.md work as they stand there. An encrypted cluster of PostgreSQL 15 moves to one of 17, which is
# encrypted under other keys, by logical replication, while clients write: they follow by themselves, every commit that was acknowledged
# is there, and neither disk has a row in clear. Then the old cluster is upgraded in its place, by pg_upgrade.
use strict;
use warnings;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Writers;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/logical_upgrade';
mkdir $tmp, 0700;
my $kek = 'file:' . kek_file("$tmp/kek");
my $marker = 'MARKER-logical-upgrade-5b1e';

# the document: heading => its commands, block by block
my (%blocks, $heading, $block);
for my $line (split /\n/, slurp_file('docs/upgrade.md')) {
	if (defined $block) {
		if ($line eq '```') { push @{ $blocks{$heading} }, $block; undef $block; }
		else { $block .= "$line\n"; }
	}
	elsif ($line =~ /^#+ (.*)/) { $heading = $1; }
	elsif ($line eq '```sh') { $block = ''; }
}

my ($old, $new, $in_place) = map { Walcrypt::Node->new($_) } qw(old new in_place);
my $old_bin = `pg_config --bindir`;
chomp $old_bin;
my $new_bin = "$ENV{WALCRYPT_POSTGRES}/17/postgres/pginstall/bin";
my ($user) = $old->connstr_for_proxy =~ /user=(\S+)/;
my %env = (
	PATH => "$Walcrypt::prefix/bin:$ENV{PATH}", WALCRYPT_KEK => $kek, OLD => $old->data_dir, NEW => $new->data_dir, OLD_BIN => $old_bin, NEW_BIN => $new_bin,
	OLD_SERVER => $old->connstr_for_proxy, NEW_SERVER => $new->connstr_for_proxy, DATABASES => 'postgres second', PGUSER => $user);

# The next block of a heading, as it stands, in a shell that has the functions of the first step. Whether it went through.
my (%done, $said);
my $functions = $blocks{'Logical replication'}[0] // die "docs/upgrade.md has no commands\n";
sub try_block
{
	my ($title) = @_;
	my $commands = $blocks{$title}[ $done{$title}++ ] // die "docs/upgrade.md has no block $done{$title} under \"$title\"\n";
	local %ENV = (%ENV, %env);
	print "# $title, block $done{$title}\n";
	# into files: servers that are started keep their standard output
	my $ran = IPC::Run::run([ 'sh', '-eu', '-c', $functions . $commands ], '<', \undef, '>', "$tmp/out", '2>', "$tmp/err");
	$said = $commands . slurp_file("$tmp/out") . slurp_file("$tmp/err");
	return $ran;
}
sub run_block
{
	my ($title) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(try_block($title), "$title: block $done{$title}") or BAIL_OUT($said);
	return;
}
# What the configuration of a new cluster needs.
sub configure
{
	my ($node) = @_;
	append_to_file($node->data_dir . '/postgresql.conf', 'port = ' . $node->port . "\nunix_socket_directories = '" . $node->host . "'\nlisten_addresses = ''\ncluster_name = '" . $node->name . "'\nfsync = off\n");
	return;
}

# two databases: tables with and without a key, in parts, with a serial number, a sequence that nobody has used
$old->init_encrypted($kek, allows_streaming => 1);
$old->append_conf('postgresql.conf', "cluster_name = 'old'\n");
$old->start;
$old->safe_psql('postgres', 'CREATE DATABASE second');
my $fill = qq{
	CREATE TABLE letters (id serial PRIMARY KEY, body text);
	INSERT INTO letters (body) SELECT '$marker ' || i FROM generate_series(1, 3000) i;
	CREATE TABLE keyless (n int, body text);
	INSERT INTO keyless SELECT i, '$marker keyless ' || i FROM generate_series(1, 300) i;
	CREATE TABLE parts (n int, body text) PARTITION BY RANGE (n);
	CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
	CREATE TABLE "Parts 2" PARTITION OF parts FOR VALUES FROM (100) TO (1000);
	INSERT INTO parts SELECT i, '$marker part ' || i FROM generate_series(1, 500) i;
	CREATE SEQUENCE "Never called" START 7;
	CREATE UNLOGGED TABLE unlogged AS SELECT * FROM keyless };
$old->safe_psql($_, $fill) for qw(postgres second);
$old->safe_psql('postgres', 'CREATE ROLE reader; GRANT SELECT ON letters TO reader');

$done{'Logical replication'} = 1;
run_block('Logical replication');    # wal_level
$old->_update_pid(1);
is($old->safe_psql('postgres', 'SHOW wal_level'), 'logical', 'the old server writes logical WAL');
my $writers = Walcrypt::Writers->new(3, $old, $new);
run_block('Logical replication');    # initdb
configure($new);
run_block('Logical replication');    # schema
$new->_update_pid(1);
is($new->safe_psql('postgres', 'SHOW server_version') =~ /^(\d+)/ ? $1 : '', '17', 'the new server is of 17');
$writers->start;
$writers->wait_for_commits(50, 'old');
run_block('Logical replication');    # publications, subscriptions
my $change = qq{
	INSERT INTO letters (body) SELECT '$marker later ' || i FROM generate_series(1, 500) i;
	UPDATE letters SET body = body || ' changed' WHERE id % 3 = 0;
	DELETE FROM keyless WHERE n % 2 = 0;
	UPDATE keyless SET body = body || ' changed' WHERE n % 5 = 0;
	UPDATE parts SET n = n + 50 WHERE n < 100;
	CREATE TEMPORARY TABLE t AS SELECT 1 };
$old->safe_psql($_, $change) for qw(postgres second);
run_block('Logical replication');    # copied
$old->safe_psql('second', "TRUNCATE keyless; INSERT INTO keyless VALUES (1, '$marker only')");
$writers->wait_for_commits(50, 'old');
my ($rc, $out, $err) = $new->psql('postgres', "INSERT INTO letters (body) VALUES ('x')");
like($err, qr/read-only transaction/, 'clients do not write into the new server yet');
run_block('Logical replication');    # the pause
($rc, $out, $err) = $old->psql('postgres', "INSERT INTO letters (body) VALUES ('x')");
like($err, qr/read-only transaction/, 'nor into the old one any more');
run_block('Logical replication');    # last position, sequences
my $step = $done{'Logical replication'};
run_block('Logical replication');    # compared
$new->safe_psql('second', "SET default_transaction_read_only = off; BEGIN; UPDATE letters SET body = 'other' WHERE id = 17; COMMIT");
$done{'Logical replication'} = $step;
ok(!try_block('Logical replication'), 'a row that differs is found');
$new->safe_psql('second', "SET default_transaction_read_only = off; BEGIN; UPDATE letters SET body = '$marker 17' WHERE id = 17; COMMIT");
run_block('Logical replication');    # over to the new server
$old->_update_pid(0);
is($done{'Logical replication'}, scalar @{ $blocks{'Logical replication'} }, 'these were all steps');

$writers->wait_for_commits(50, 'new');
$writers->stop;
my ($lost, $twice, $errors) = $writers->check($new);
is("$lost $twice", '0 0', 'every acknowledged commit is on the new server, once');
is(join("\n", grep { !/cannot execute INSERT in a read-only transaction/ } split(/\n/, $errors)), '', 'and clients saw no other error than the document says');
is($new->safe_psql('postgres', "INSERT INTO letters (body) VALUES ('$marker new') RETURNING id"), 3501, 'the serial goes on');
is($new->safe_psql('second', q{SELECT nextval('"Never called"')}), 7, 'a sequence that nobody had called begins at its start');
is($new->safe_psql('postgres', "SELECT has_table_privilege('reader', 'letters', 'SELECT'), has_table_privilege('reader', 'keyless', 'SELECT')"), 't|f', 'roles and rights came over');
is($new->safe_psql('postgres', 'SELECT count(*) FROM unlogged'), 0, 'rows of unlogged tables do not');
my %id = map { $_->name => (ctl('key', 'show', '-D', $_->data_dir) =~ /^Relation key.*?([0-9a-f]{16})/m)[0] } $old, $new;
isnt($id{old}, undef, 'the clusters have relation keys');
isnt($id{old}, $id{new}, 'that differ');
$new->safe_psql('postgres', 'CHECKPOINT');
is(join(' ', files_containing($marker, $old->data_dir, $new->data_dir)), '', 'the marker is on neither disk');
append_to_file("$tmp/rows", $new->safe_psql('postgres', 'SELECT body FROM letters'));
is(join(' ', files_containing($marker, $tmp)), "$tmp/rows", 'it would be found');

# its standby, through the proxy: the one that was there knows nothing of the new server yet
my $standby = Walcrypt::Node->new('blue');
my $proxy = Walcrypt::Proxy->new(kek => "$tmp/kek", nodes => { red => { conninfo => $old->connstr_for_proxy } });
$proxy->start;
$proxy->{nodes} = { red => { conninfo => $new->connstr_for_proxy, datadir => $new->data_dir, keyset => 'red17' }, blue => { keyset => 'blue17' } };
$proxy->write_conf;
append_to_file("$tmp/passphrase", "six words that nobody would guess\n");
chmod 0600, "$tmp/passphrase";
@env{qw(WALCRYPT_CONFIG PASSPHRASE STANDBY STANDBY_PORT)} = ($proxy->conf, "$tmp/passphrase", $standby->data_dir, $standby->port);
run_block('Standbys') for 1 .. 2;    # keys, the standby
$standby->_update_pid(1);
$new->safe_psql('postgres', "INSERT INTO letters (body) VALUES ('$marker on both')");
wait_for('the standby', sub { $standby->safe_psql('postgres', "SELECT count(*) FROM letters WHERE body = '$marker on both'") eq '1' });
pass('the new server has a standby through the proxy');
is(join(' ', files_containing($marker, $standby->data_dir)), '', 'the marker is not on its disk');
$standby->stop;
$proxy->stop;
$new->stop;
is((ctl_output('verify', '-D', $new->data_dir, '--kek', $kek))[0], 0, 'verify is clean');

# back: what the old server needs to go on
$old->start;
$old->safe_psql('second', "SELECT pg_create_logical_replication_slot('upgrade_second', 'pgoutput')");
run_block('Back');
is($old->safe_psql($_, 'SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)'), 0, "nothing is left in $_") for qw(postgres second);
is($old->safe_psql('postgres', "INSERT INTO letters (body) VALUES ('$marker back') RETURNING id"), 3501, 'the old server can go on');

# pg_upgrade of it, into another new directory
my $facts = 'SELECT count(*), sum(hashtextextended(l::text, 0)) FROM letters l';
my $want = $old->safe_psql('postgres', $facts);
@env{qw(NEW NEW_SERVER)} = ($in_place->data_dir, $in_place->connstr_for_proxy);
run_block('pg_upgrade') for 1 .. 3;    # pg_attver, initdb, pg_upgrade
$old->_update_pid(0);
configure($in_place);
run_block('pg_upgrade');    # started
$in_place->_update_pid(1);
is($done{pg_upgrade}, scalar @{ $blocks{pg_upgrade} }, 'these were all steps');
is($in_place->safe_psql('postgres', $facts), $want, 'pg_upgrade: all rows are there');
is($in_place->safe_psql('postgres', 'SHOW server_version') =~ /^(\d+)/ ? $1 : '', '17', 'on 17');
$in_place->stop;
is(join(' ', files_containing($marker, $in_place->data_dir)), '', 'and the marker is not');

$env{TRY} = "$tmp/try";
run_block('Minor releases of PostgreSQL');
ok(!-e $env{TRY}, 'a build is tried, and nothing is left of that');
is(join(' ', grep { ($done{$_} // 0) != @{ $blocks{$_} } } sort keys %blocks), '', 'every command of the document was run');
done_testing();
