# key new-epoch: staged before, taken into use by a promotion: the new primary's first new page is under the new WAL key, a standby
# that has it gets the WAL as it is, one that lacks it gets it translated, and each verifies clean. Then what is refused.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/epoch';
mkdir $tmp, 0700;
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 256MB\nwal_retrieve_retry_interval = 300ms\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 5000) AS i');

my %node = map { $_ => Walcrypt::Node->new($_) } qw(blue green grey);
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy },
	(map { $_ => { conninfo => $node{$_}->connstr_for_proxy, keyset => $_, datadir => $node{$_}->data_dir } } keys %node) });
my @conf = ('--config', $proxy->conf);
my $kek = $proxy->kek_uri;
$proxy->key_init($_) for qw(blue green grey);

sub epochs { my (@which) = @_; return join(' ', map { "$_->{number}:$_->{id}>$_->{after_timeline}" } @{ decode_json(ctl(qw(key show --json), @which, @conf))->{epochs} }); }
sub keys_of { my ($node) = @_; return epochs('-D', $node->data_dir); }

sub refused
{
	my ($status, $words, $name, @args) = @_;
	my ($rc, $out, $err) = ctl_output(@args);
	is($rc, $status, "$name: exit status");
	like($err, $words, "$name: message");
	return;
}

sub build
{
	my ($name) = @_;
	$node{$name}->init_from_proxy($proxy, $name);
	$node{$name}->append_conf('postgresql.auto.conf', "wal_retrieve_retry_interval = 300ms\nwal_keep_size = 256MB\n");
	$node{$name}->start;
	return;
}

# blue has epoch 1 and is not told of the other; green and grey are staged, green before it is built
$proxy->start;
build('blue');
is(epochs('green'), epochs('blue'), 'one WAL key so far');
my $out = ctl(qw(key new-epoch green), @conf);
like($out, qr/^WAL key epoch 2, [0-9a-f]{16}, for timelines after 1\.\nkeyset "green": has it now\.\nA promotion takes it into use/, 'key new-epoch');
my $one = epochs('blue');
my $both = epochs('green');
like($both, qr/^\Q$one\E 2:[0-9a-f]{16}>1$/, 'it is staged for timelines after the present one, epoch 1 is as before');
like(ctl(qw(key new-epoch green), @conf), qr/2, \w+, for timelines after 1: it is staged already\.\nkeyset "green": had it\.\n\z/, 'a second time changes nothing');
is(epochs('green'), $both, '... really');
is(epochs('grey'), $one, 'others have what they had');
kill('HUP', $proxy->pid);
wait_for('the proxy to read its keystore again', sub { $proxy->console('SHOW NODES') =~ /^green\|.*\|2\|/m });
build($_) for qw(green grey);
is(keys_of($node{green}), $both, 'the data directory has the keys of the keystore');

# grey is running already: its data directory and its keyset get it together, and the same
$out = ctl(qw(key new-epoch grey), @conf);
like($out, qr/^WAL key epoch 2, .* staged already\.\nkeyset "grey": has it now\.\ndata directory "\S+grey\S+": has it now\.\n/, 'a running node: keystore and data directory');
is(epochs('grey'), $both, '... the epoch that green has');
is(keys_of($node{grey}), $both, '... both alike');
$node{grey}->restart;
kill('HUP', $proxy->pid);
wait_for('the proxy to read its keystore again', sub { $proxy->console('SHOW NODES') =~ /^grey\|.*\|2\|/m });
my $facts = 'SELECT count(*), sum(i) FROM t';
$red->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 1000)');
for my $name (sort keys %node) {
	$red->wait_for_catchup($name);
	is($node{$name}->safe_psql('postgres', $facts), $red->safe_psql('postgres', $facts), "$name streams from red");
	is(page_epochs($node{$name}->data_dir . '/pg_wal')->{1}, '1', "$name: timeline 1 is under epoch 1");
}

# the promotion
$red->stop;
$node{green}->promote;
my $key = (split(/[:>]/, (split(/ /, $both))[1]))[1];
$node{green}->safe_psql('postgres', "INSERT INTO t SELECT generate_series(1, 3000); SELECT pg_switch_wal(); INSERT INTO t VALUES (7)");
for my $name (qw(blue grey)) {
	$node{green}->wait_for_catchup($name);
	is($node{$name}->safe_psql('postgres', $facts), $node{green}->safe_psql('postgres', $facts), "$name follows green");
}
is(page_epochs($node{green}->data_dir . '/pg_wal')->{2}, '2', 'green: every page of timeline 2 is under epoch 2, the first one too');
is(page_epochs($node{grey}->data_dir . '/pg_wal')->{2}, '2', 'grey, which has it: the same');
is(page_epochs($node{blue}->data_dir . '/pg_wal')->{2}, '1', 'blue, which lacks it: translated to epoch 1');
my ($rc, $json) = ctl_output('wal', '--json', grep { m{/00000002[0-9A-F]{16}$} } glob($node{green}->data_dir . '/pg_wal/*'));
is($rc, 0, 'walcrypt-ctl wal');
is(scalar(grep { grep { $_ == 2 } @{ $_->{epochs} // [] } } @{ decode_json($json) }) > 0, 1, '... tells epoch 2');

# what was kept back: red's old WAL key opens nothing of timeline 2 on green
my $old = "$tmp/onlyone";
system('cp', '-rp', $node{blue}->data_dir . '/pg_cryptokeys', $old) == 0 or die;
my ($segment) = grep { m{/00000002[0-9A-F]{16}$} } glob($node{green}->data_dir . '/pg_wal/*');
refused(5, qr/epoch 2/, 'epoch 1 alone does not open it', 'wal', $segment, '--decrypt', "$tmp/clear", '--key-dir', $old, '--kek', $kek);
my ($wrc) = ctl_output('wal', $segment, '--decrypt', "$tmp/clear2", '-D', $node{green}->data_dir, '--kek', $kek);
is($wrc, 0, '... both do');

# a restart in the middle; and blue gets it later
$node{$_}->restart for qw(green blue grey);
$out = ctl(qw(key new-epoch blue --timeline 1), @conf);
is(epochs('blue'), $both, 'blue gets it, too');
is(keys_of($node{blue}), $both, '... and its data directory');
$node{blue}->restart;
kill('HUP', $proxy->pid);
wait_for('the proxy to read its keystore again', sub { $proxy->console('SHOW NODES') =~ /^blue\|.*\|2\|/m });
$node{blue}->restart;
$node{green}->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 3000); SELECT pg_switch_wal(); INSERT INTO t VALUES (8)');
$node{green}->wait_for_catchup('blue');
is($node{blue}->safe_psql('postgres', $facts), $node{green}->safe_psql('postgres', $facts), 'blue goes on with it');
is(page_epochs($node{blue}->data_dir . '/pg_wal')->{2}, '1,2', '... from epoch 1 to epoch 2 on one timeline');

# the next one: all three at once, for timelines after 2
$out = ctl(qw(key new-epoch blue green grey), @conf);
is(scalar(() = $out =~ /has it now/g), 6, 'three keysets and three data directories');
like(epochs('blue'), qr/ 3:\w{16}>2$/, 'epoch 3, for timelines after 2');
is(epochs($_), epochs('blue'), "$_ agrees") for qw(green grey);
is(keys_of($node{$_}), epochs('blue'), "... and its data directory") for sort keys %node;
$node{green}->wait_for_catchup($_) for qw(blue grey);
for my $name (qw(green blue grey)) {
	$node{$name}->stop;
	my ($vrc, $vout, $verr) = ctl_output('verify', '-D', $node{$name}->data_dir, '--kek', $kek);
	is($vrc, 0, "$name verifies clean") or diag($vout, $verr);
}
is($proxy->stop, 0, 'the proxy stops in good order');
unlike($proxy->log, qr/is damaged|UTC \[\d+\] FATAL/, 'nothing bad in its log');

# refused, with nothing changed
refused(2, qr/name keysets, or a data directory/, 'no keyset', qw(key new-epoch), @conf);
refused(2, qr/name keysets, or a data directory/, 'both', qw(key new-epoch blue -D), $tmp, @conf);
refused(2, qr/there is no keyset "pink"/, 'an unknown keyset', qw(key new-epoch pink), @conf);
refused(2, qr/"blue" is named twice/, 'one twice', qw(key new-epoch blue blue), @conf);
refused(2, qr/--timeline takes a number/, 'no timeline', qw(key new-epoch blue --timeline 0), @conf);
refused(4, qr/could not ask node/, 'nobody to ask for the timeline', qw(key new-epoch other), @conf) if ctl(qw(key init other --own-wal-key --system-identifier 7300000000000000001), @conf);
refused(6, qr/keyset "blue" and keyset "other" have no WAL key in common/, 'two clusters', qw(key new-epoch blue other --timeline 9), @conf);
refused(5, qr/wrong cluster key/, 'another cluster key', qw(key new-epoch other --timeline 9 --kek), 'file:' . kek_file("$tmp/kek2"), @conf);
refused(6, qr/are those of keyset "blue"\nHINT: .*key new-epoch blue/, '-D of a keyset', qw(key new-epoch -D), $node{blue}->data_dir, @conf);
my $ids = epochs('other');
mkdir $proxy->keystore . '/other/old';
refused(6, qr/was cut off\nHINT:  .*key repair/, 'after a change that was cut off', qw(key new-epoch other --timeline 9), @conf);
ctl(qw(key repair other), @conf);
is(epochs('other'), $ids, '... changes nothing');

# a cluster of its own, without keystore
my $lone = Walcrypt::Node->new('lone');
$lone->init_encrypted($kek);
like(ctl(qw(key new-epoch -D), $lone->data_dir, '--kek', $kek), qr/^WAL key epoch 2, \w+, for timelines after 1\.\ndata directory .*: has it now/, 'key new-epoch -D');
$lone->start;
is(page_epochs($lone->data_dir . '/pg_wal')->{1}, '1', 'its timeline 1 stays under epoch 1');
$lone->stop;
done_testing();
