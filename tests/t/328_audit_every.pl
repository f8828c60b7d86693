# Every command that "walcrypt-ctl --help" names either only looks, and leaves no line in the audit log, or changes or hands out keys, and
# leaves its lines. A command that is not in the table below fails the test.
use strict;
use warnings;
use Cwd ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands;
use Walcrypt::Terminal;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/every';
mkdir $tmp, 0700;
kek_file("$tmp/kek$_") for 1 .. 2;
my $words  = put("$tmp/words", "correct horse battery\n");
my $config = put("$tmp/w.ini", "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\nunix_socket_dir = $tmp\n[kek one]\nuri = file:$tmp/kek1\n"
	  . "[node red]\nconninfo = host=$tmp port=1\nkeyset = red\nkek = one\n[node blue]\nconninfo = host=$tmp port=2\nkeyset = blue\nkek = one\n");
$ENV{WALCRYPT_CONFIG} = $config;
my $log = "$tmp/ks/audit.log";
my @id  = qw(--system-identifier 7300000000000000001);

sub records { return -e $log ? map { decode_json($_) } split(/\n/, slurp_from($log)) : (); }
sub run { my ($status, @command) = @_; my ($rc, $out, $err) = ctl_output(@command); is($rc, $status, "@command[0 .. ($command[0] eq 'key' ? 1 : 0)]: exit status $status") or diag $err; return; }
sub typed
{
	my (@command) = @_;
	my ($status, $seen, $out, $err) = on_terminal([ [ qr/Type (\S+) to do it: \z/, '' ] ], @command, '--dry-run');
	my ($id) = $out =~ /relation key (\w{16})/;
	($status) = on_terminal([ [ qr/to do it: \z/, "$id\n" ] ], @command);
	is($status, 0, "@command[0, 1]: done");
	return;
}

# Those that only look.
my %looks = map { $_ => 1 } 'exec', 'verify', 'wal', 'key list', 'key show', 'key verify', 'key audit', 'doctor', 'status', 'pause', 'resume', 'reload';
# The others in the order in which they are run, each with what is to be in the log: done, or failed where no server is there to do it on.
my @changes = (
	[ 'key init',      'done',   sub { run(0, qw(key init red), @id) } ],
	[ 'key init',      'done',   sub { run(0, qw(key init blue), @id) } ],
	[ 'key new-epoch', 'done',   sub { run(0, qw(key new-epoch red blue --timeline 1)) } ],
	[ 'key alter',     'done',   sub { run(0, qw(key alter red --new-kek), "file:$tmp/kek2") } ],
	[ 'key alter',     'failed', sub { run(5, qw(key alter red --new-kek), "file:$tmp/kek2") } ],
	[ 'key move',      'done',   sub { run(0, qw(key move blue --create-kek --new-kek), "file:$tmp/copy") } ],
	[ 'key repair',    'done',   sub { run(0, qw(key repair --all)) } ],
	[ 'key backup',    'done',   sub { run(0, qw(key backup), "$tmp/backup", 'blue', '--passphrase-file', $words) } ],
	[ 'key export',    'done',   sub { run(0, qw(key export blue --to), "$tmp/cfe") } ],
	[ 'key import',    'done',   sub { run(0, qw(key import green --kek one --from), "$tmp/cfe", @id) } ],
	[ 'key destroy',   'done',   sub { typed(qw(key destroy green)) } ],
	[ 'key restore',   'failed', sub { run(6, qw(key restore), "$tmp/backup", 'blue', '--passphrase-file', $words) } ],
	[ 'initdb',        'done',   sub { run(0, 'initdb', '-D', "$tmp/data", qw(--kek one --), '-A', 'trust') } ],
	[ 'unlock',        'done',   sub { run(0, 'exec', '-D', "$tmp/data", qw(--kek one -- pg_checksums --check)) } ],
	[ 'unlock',        'failed', sub { run(1, 'exec', '-D', "$tmp/data", '--kek', "file:$tmp/kek2", qw(-- pg_checksums --check)) } ],
	[ 'reencrypt',     'done',   sub { run(0, 'reencrypt', '-D', "$tmp/data", qw(--kek one --to new)) } ],
	[ 'key sync',      'failed', sub { run(6, 'key', 'sync', '-D', "$tmp/data", '--kek', 'one') } ],
	[ 'key retire',    'failed', sub { run(6, qw(key retire blue --epoch 2 --timeline 1)) } ],
	[ 'build',         'failed', sub { run(1, 'build', 'blue', '-D', "$tmp/built") } ],
	[ 'switchover',    'failed', sub { run(4, qw(switchover --to blue)) } ],
	[ 'rotate',        'failed', sub { run(6, qw(rotate --to blue)) } ],
	[ 'failover',      'failed', sub { run(4, qw(failover --to blue)) } ],
);
my %changes = map { $_->[0] => 1 } @changes;

my @commands = ctl('--help') =~ /^  ((?:key )?[a-z][a-z-]*)  +\S/mg;
cmp_ok(scalar(@commands), '>', 25, 'the list of commands');
ok($looks{$_} || $changes{$_}, "$_ is known here") for @commands;
my @keys = ctl_output('key');
like($keys[2], qr/"key $_"/, "... as \"walcrypt-ctl key\" has key $_") for map { /^key (.*)/ ? $1 : () } @commands;

my $seen = 0;
for my $c (@changes) {
	my ($command, $state, $do) = @$c;
	$do->();
	my @new = records();
	splice(@new, 0, $seen);
	$seen += @new;
	my @of = grep { $_->{action} eq $command } @new;
	is(join(' ', map { $_->{state} } @of[ -2, -1 ]), "begun $state", "$command: its lines in the log") or diag explain \@new;
}
like(ctl(qw(key audit)), qr/each follows the one before/, 'one chain');

# those that only look
my $whole = slurp_from($log);
ctl_output(@$_) for [qw(key list)], [qw(key list --kek one)], [qw(key show blue)], [qw(key verify blue)], [qw(key audit)], [qw(status)], [qw(pause)], [qw(resume)], [qw(reload)],
  [qw(key init --help)];
is(scalar(records()), $seen, 'what only looks leaves none');

# what hands out keys goes on without a record, and says so; what changes them does not
chmod 0644, $log;
my ($rc, $out, $err) = ctl_output('exec', '-D', "$tmp/data", qw(--kek one -- pg_checksums --check));
is($rc, 0, 'a program gets its keys although the log cannot be written');
like($err, qr/^WARNING:  audit log "\S+" can be read or written by others\nHINT:  "unlock" goes on without a record\.$/m, '... which is said');
is((ctl_output(qw(key repair --all)))[0], 6, 'keys are not changed');
chmod 0600, $log;
is(scalar(records()), $seen, '... and nothing is written');

# no key and no passphrase
my @material = map { slurp_file("$tmp/kek$_") =~ /(\w{64})/ } 1, 2;
is(scalar(grep { index($whole, $_) >= 0 } @material, 'correct horse'), 0, 'no material in it');
done_testing();
