# Who may do what with keys, and who did: the audit log and its chain, whose loss stops what would change keys; modes and owners of the
# keystore; console roles that are not its owner; a provider reference planted in a data directory, which is shown and never used.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Strace;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/audit';
mkdir $tmp, 0700;
kek_file("$tmp/kek$_") for 1 .. 2;
sub put { my ($path, $text, $mode) = @_; open(my $f, '>', $path) or die; print $f $text; close $f; chmod($mode // 0600, $path); return $path; }
my $config = put("$tmp/w.ini", "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek one]\nuri = file:$tmp/kek1\n[node blue]\nkeyset = blue\nkek = one\n[node green]\nkeyset = green\nkek = one\n");
my @conf  = ('--config', $config);
my @sysid = qw(--system-identifier 7300000000000000001);
my $log   = "$tmp/ks/audit.log";
my $who   = (getpwuid($<))[0];

sub records { return map { decode_json($_) } split(/\n/, slurp_from($log)); }
sub refused
{
	my ($status, $words, $name, @args) = @_;
	my ($rc, $out, $err) = ctl_output(@args);
	is($rc, $status, "$name: exit status");
	like($err, $words, "$name: message");
	return $out;
}

# each operation: begun, then done or failed
my $words = put("$tmp/words", "correct horse battery\n");
my @pass = ('--passphrase-file', $words);
ctl(qw(key init blue), @sysid, @conf);
my @done = ('key init blue');
for my $c ([qw(key init green), @sysid], [qw(key new-epoch blue --timeline 1)], [qw(key alter blue --new-kek), "file:$tmp/kek2"], [qw(key alter blue --kek), "file:$tmp/kek2", qw(--new-kek one)],
	[ qw(key repair --all) ], [ qw(key backup), "$tmp/backup", @pass ], [ qw(key export green --to), "$tmp/cfe" ], [ qw(key import purple --from), "$tmp/cfe", @sysid ]) {
	ctl(@$c, @conf);
	push @done, "@$c[0 .. 2]";
}
refused(6, qr/is the present one/, 'one that fails', qw(key alter blue --new-kek one), @conf);
my @r = records();
is(scalar(@r), 2 * (@done + 1), 'two records for each operation');
is(join(', ', map { "$_->{action} $_->{arguments}[0]" } grep { $_->{state} eq 'begun' } @r[ 0 .. 2 * @done - 1 ]), join(', ', @done), 'which they were');
is(join(' ', map { $_->{state} } @r), join(' ', ('begun done') x @done, 'begun failed'), 'and how they ended');
is($r[-1]{began}, $r[-2]{record}, 'the end names its beginning');
like($r[-1]{error}, qr/^the new cluster key \w{16} is the present one$/, '... and the error');
is(join(' ', map { $_->{record} } @r), join(' ', 1 .. @r), 'numbered');
is(join(' ', sort keys %{ { map { ($_->{user} => 1) } @r } }), $who, 'by whom');
my @lines = split(/\n/, slurp_from($log));
is($r[$_]{before}, $_ == 0 ? '0' x 64 : sha256_hex($lines[ $_ - 1 ]), "record @{[ $_ + 1 ]} has the hash of the one before") for 0, 1, $#r;
is((stat $log)[2] & 07777, 0600, 'mode 0600');
my @before = @r;
ctl(qw(key list), @conf);
ctl(qw(key show blue), @conf);
ctl(qw(key verify blue), @conf);
is(scalar(records()), scalar(@before), 'what only looks has no record');

# no material
ctl_output(qw(key alter blue --new-kek), 'command:echo ' . 'ab' x 32, @conf);
my $text = slurp_from($log);
my @keys = map { slurp_from("$tmp/kek$_") =~ /(\w{64})/ } 1 .. 2;
push @keys, map { unpack('H*', slurp_from($_)) } glob("$tmp/ks/*/live/*.wkey");
is(scalar(grep { index($text, $_) >= 0 } @keys, 'correct horse', 'ab' x 32), 0, 'no key, no passphrase in it');
like($text, qr/"\(not shown\)"/, 'a key on a command line is not kept');

# the chain
my $audit = ctl(qw(key audit), @conf);
like($audit, qr/^\Q$log\E: \d+ records, each follows the one before; the last has hash \w{64}\.$/, 'key audit');
my ($hash) = $audit =~ /hash (\w{64})/;
is($hash, sha256_hex((split(/\n/, slurp_from($log)))[-1]), '... with the last hash');
my $shown = ctl(qw(key audit --show), @conf);
is($shown, slurp_from($log), 'key audit --show');
ctl(qw(key repair blue), @conf);
like(ctl(qw(key audit --expect), $hash, @conf), qr/^2 of them came after the one with the hash that was remembered\.$/m, 'a remembered hash');
my $whole = slurp_from($log);
my @all = split(/^/m, $whole);
sub broken { my ($name, $lines, $words, @more) = @_; return refused(3, $words, $name, qw(key audit --file), put("$tmp/log", join('', @$lines)), @more); }
broken('a changed word', [ map { s/"key new-epoch"/"key nothing"/r } @all ], qr/line \d+ does not follow the line before/);
broken('a line taken out', [ @all[ 0 .. 3, 5 .. $#all ] ], qr/line 5 does not follow/);
broken('lines exchanged', [ @all[ 0, 2, 1, 3 .. $#all ] ], qr/line 2 does not follow/);
broken('a line twice', [ @all[ 0 .. $#all, $#all ] ], qr/line @{[ @all + 1 ]} does not follow/);
broken('no JSON', [ @all, "hello\n" ], qr/line @{[ @all + 1 ]} is no record/);
broken('half a line', [ @all[ 0 .. $#all - 1 ], substr($all[-1], 0, 50) ], qr/line @{[ scalar @all ]} is cut off/);
broken('an end cut off is only told by a remembered hash', [ @all[ 0 .. 5 ] ], qr/has no record with the hash that was remembered/, '--expect', $hash);
is((ctl_output(qw(key audit --file), put("$tmp/log", join('', @all[ 0 .. 5 ]))))[0], 0, '... else not');
refused(1, qr/could not open audit log/, 'none', qw(key audit --file), "$tmp/none");

# a torn last line, as a power cut leaves it; an operation that was killed
put($log, $whole . substr($all[-1], 0, 30));
ctl(qw(key repair blue), @conf);
like(ctl(qw(key audit), @conf), qr/@{[ @all + 2 ]} records, each follows/, 'the next one takes a torn line away');
# cannot be written: nothing is done
sub keys_now { return join("\0", map { slurp_from($_) } sort glob("$tmp/ks/*/live/*")); }
my $keys = keys_now();
$whole = slurp_from($log);
my @alter = (qw(key alter blue --new-kek), "file:$tmp/kek2", @conf);
chmod 0400, $log;
refused(6, qr/could not open audit log.*Permission denied\nHINT:  Nothing was changed/, 'a log that cannot be written', @alter);
chmod 0600, $log;
rename($log, "$log.away");
mkdir $log;
refused(6, qr/could not open audit log/, 'a folder in its place', @alter);
rmdir $log;
symlink("$log.away", $log);
refused(6, qr/could not open audit log/, 'a symbolic link', @alter);
unlink $log;
rename("$log.away", $log);
chmod 0644, $log;
refused(6, qr/can be read or written by others\nHINT:  chmod 0600/, 'one that others can read', @alter);
chmod 0600, $log;
put($log, $whole . "nonsense\n");
refused(3, qr/the last line of audit log .* is no record/, 'one that ends in something else', @alter);
put($log, $whole);
SKIP: for my $call (qw(fallocate write fsync)) {
	skip_without_strace(3);
	my ($o, $e) = ('', '');
	IPC::Run::run([ 'strace', '-f', '-qq', '-o', "$tmp/trace", '-e', "trace=$call", '-e', "inject=$call:error=ENOSPC:when=1", $Walcrypt::ctl, @alter ], '<', \undef, '>', \$o, '2>', \$e);
	is($? >> 8, 6, "no space left on the disk ($call): refused");
	like($e, qr/^ERROR:  could not (make room in|write) audit log .*No space left on device\nHINT:  Nothing was changed/m, '... and said');
	is(slurp_from($log), $whole, '... the log is as it was');
}
is(keys_now(), $keys, 'no key was changed by any of them');
SKIP: {
	skip_without_strace(3);
	# an end that cannot be recorded is no reason to say that nothing happened
	my @back = (qw(key alter blue --new-kek one --kek), "file:$tmp/kek2", @conf);
	my ($o, $e) = ('', '');
	my @strace = ('strace', '-f', '-qq', '-s', '4096', '-o', "$tmp/trace", '-e', 'trace=write');
	IPC::Run::run([ @strace, $Walcrypt::ctl, @alter ], '<', \undef, '>', \$o, '2>', \$e);
	my @writes = slurp_from("$tmp/trace") =~ /^(.*write\(.*)$/mg;
	my ($fd) = $writes[0] =~ /write\((\d+)/;
	my (undef, $nth) = grep { $writes[ $_ - 1 ] =~ /write\($fd,/ } 1 .. @writes;
	ctl(@back);
	IPC::Run::run([ @strace, '-e', "inject=write:error=EIO:when=$nth", $Walcrypt::ctl, @alter ], '<', \undef, '>', \$o, '2>', \$e);
	is($? >> 8, 1, 'an end that cannot be recorded');
	like($e, qr/could not write audit log.*\nHINT:  "key alter" is done; record \d+ tells that it began/, '... says what is done');
	like(ctl(qw(key audit), @conf), qr/^Of 1 no end is told/m, 'key audit tells of it');
	ctl(@back);
}

# many at once
my @jobs = map { my $n = $_; my $e = ''; IPC::Run::start([ $Walcrypt::ctl, qw(key repair), $n % 2 ? 'blue' : 'green', @conf ], '<', \undef, '>', \my $o, '2>', \$e) } 1 .. 8;
$_->finish for @jobs;
like(ctl(qw(key audit), @conf), qr/each follows the one before/, 'eight at once: one chain');

# another place for it; none
my $elsewhere = put("$tmp/e.ini", slurp_from($config) =~ s/^(keystore = .*)$/$1\naudit_log = $tmp\/other.log/mr);
ctl(qw(key repair blue --config), $elsewhere);
is(scalar(split(/\n/, slurp_from("$tmp/other.log"))), 2, 'audit_log');
{
	local $ENV{WALCRYPT_AUDIT_LOG} = "$tmp/env.log";
	ctl(qw(key repair --key-dir), "$tmp/ks/blue");
	is(scalar(split(/\n/, slurp_from("$tmp/env.log"))), 2, 'WALCRYPT_AUDIT_LOG');
}

# modes and owners of the keystore
chmod 0750, "$tmp/ks";
refused(6, qr/keystore "\S+" has mode 0750: others may look into it\nHINT:  chmod 0700/, 'a keystore that others can look into', qw(key init red), @sysid, @conf, '--kek', 'one');
chmod 0700, "$tmp/ks";
is((grep { (stat $_)[2] & 077 } glob("$tmp/ks $tmp/ks/* $tmp/ks/*/* $tmp/ks/*/*/*")), 0, 'nothing in it is for others');

# the proxy: the same checks, its own record; the console's roles are not its owner
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->start;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
chmod 0755, $proxy->keystore;
ok(!$proxy->start(fail_ok => 1), 'a proxy does not start on a keystore that others can look into');
like($proxy->log, qr/has mode 0755: others may look into it/, '... and says why');
chmod 0700, $proxy->keystore;
for my $option (qw(admin_users stats_users)) {
	local $proxy->{settings}{$option} = "someone, $who";
	$proxy->write_conf;
	my $at = $proxy->log_size;
	ok(!$proxy->start(fail_ok => 1), "nor with its owner's name in $option");
	like($proxy->log($at), qr/"\Q$who\E" in $option owns the keystore/, '... and says why');
}
$proxy->write_conf;
$proxy->start;
like(ctl(qw(key audit --show --config), $proxy->conf), qr/"action":"proxy: keysets opened","state":"done","arguments":\["blue"\]/, 'a proxy tells which keysets it opened');
$proxy->stop;

# a planted reference: a command in keyset.json of a data directory
my $node = Walcrypt::Node->new('planted');
$node->init_encrypted("file:$tmp/kek1");
my $json = $node->data_dir . '/pg_cryptokeys/live/keyset.json';
my $trap = "$tmp/trapped";
my $was = slurp_from($json);
put($json, $was =~ s/"provider": ".*?"/"provider": "command:touch $trap; cat $tmp\/kek1"/r);
my @dir = ('-D', $node->data_dir);
like(ctl(qw(key show), @dir), qr/^provider +command:touch \Q$trap\E/m, 'a planted command is shown');
refused(2, qr/no cluster key is named/, 'without a source of our own', qw(key verify), @dir);
refused(3, qr/keyset\.json" was changed/, 'with one', qw(key verify), @dir, '--kek', "file:$tmp/kek1");
refused(3, qr/was changed/, 'alter', qw(key alter), @dir, '--kek', "file:$tmp/kek1", '--new-kek', "file:$tmp/kek2");
ctl_output(qw(verify), @dir, '--kek', "file:$tmp/kek1");
ctl_output(qw(key sync), @dir, @conf);
ctl_output(qw(key destroy --kek one), $node->data_dir, @conf);
ok(!$node->start(fail_ok => 1), 'the server does not start with it');
# one who has the cluster key plants it with a code that fits: shown, and still nobody runs it
put($json, $was);
ctl(qw(key move), @dir, '--kek', "file:$tmp/kek1", '--new-kek', "command:touch $trap; cat $tmp/kek1");
ok(-e $trap, 'a command that our own option names is run (the control)');
unlink $trap;
like(ctl(qw(key show), @dir), qr/^provider +command:touch/m, 'its reference is in the directory');
$node->start;
is($node->safe_psql('postgres', 'SELECT 1'), '1', 'the server starts with what its own environment names');
$node->stop;
ctl(qw(key verify), @dir, '--kek', "file:$tmp/kek1");
ctl(qw(verify), @dir, '--kek', "file:$tmp/kek1");
ok(!-e $trap, 'no planted command was ever run');
done_testing();
