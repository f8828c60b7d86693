# Goal: the manual pages say what the programs say and are clean for man and mandoc; in bash, TAB completes commands, options, nodes,
# keysets and epochs; what `make install` has put somewhere, `make uninstall` takes away.
use strict;
use warnings;
use Cwd ();
use File::Find ();
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my %man = map { m{/([^/]+\.\d)$} ? ($1 => $_) : () } glob("$Walcrypt::prefix/share/man/man*/*");
is(join(' ', sort keys %man), 'walcrypt-ctl.1 walcrypt-proxy.8 walcrypt-storage.7 walcrypt.ini.5', 'the manual pages are installed');

sub output
{
	my @command = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err);
	return ($? >> 8, $out, $err);
}

my %text;
for my $page (sort keys %man) {
	my ($rc, $out) = output('mandoc', '-Tlint', '-W', 'warning', $man{$page});
	is("$rc $out", '0 ', "mandoc has nothing to say about $page");
	local $ENV{MANWIDTH} = 1000;
	($rc, $text{$page}, my $err) = output('man', '--warnings', '-E', 'ascii', '-l', $man{$page});
	is("$rc $err", '0 ', 'nor has man');
	$text{$page} =~ s/\s+/ /g;
}
# a page with faults: a checker that is silent about it is none
my $dir = Cwd::realpath(PostgreSQL::Test::Utils::tempdir());
open(my $f, '>', "$dir/bad.1") or die;
print $f ".TH BAD 1 2026-11-22\n.SH NAME\nbad \\- page\n.PP\n.PP\n.XX nothing\n";
close $f;
isnt((output('mandoc', '-Tlint', '-W', 'warning', "$dir/bad.1"))[0], 0, 'mandoc would tell');
like((output('man', '--warnings', '-l', "$dir/bad.1"))[2], qr/XX/, 'man would tell');

# what --help says and its page does not
sub missing
{
	my ($page, @said) = @_;
	return join ', ', grep { index($text{$page}, $_) < 0 } map { s/\s+/ /gr =~ s/^ //r } @said;
}
# "-D, --pgdata=DIR   help" is two things to look for
sub options_of { return map { /^  (?:-., |    )(--\S+) +(.*)/ ? ($1, $2) : () } split /\n/, shift; }

my @said = options_of((output($Walcrypt::proxy, '--help'))[1]);
cmp_ok(scalar @said, '>=', 10, 'walcrypt-proxy --help tells of its options');
is(missing('walcrypt-proxy.8', @said), '', 'as walcrypt-proxy(8) does');
@said = grep { $_ ne '' } split /\n/, (output($Walcrypt::proxy, '--help-config'))[1];
cmp_ok(scalar @said, '>', 150, '--help-config tells of the options of walcrypt.ini');
is(missing('walcrypt.ini.5', map { /^(\[.*?\])  / ? $1 : $_ } @said), '', 'as walcrypt.ini(5) does');
my @commands = (output($Walcrypt::ctl, '--help'))[1] =~ /^  ([a-z]+(?: [a-z-]+)?) +\S/mg;
cmp_ok(scalar @commands, '>', 25, 'walcrypt-ctl has commands');
for my $command (@commands) {
	my $help = (output($Walcrypt::ctl, split(/ /, $command), '--help'))[1];
	my ($usage) = $help =~ /^Usage: (.*)/;
	is(missing('walcrypt-ctl.1', $usage =~ s/ $//r, options_of($help)), '', "$command --help is in walcrypt-ctl(1)");
}
like($text{'walcrypt-storage.7'}, qr/WALCRYPT_WALSENDER what a server's walsenders stream/, 'walcrypt-storage(7) has the environment');

# completion: bash itself, with the words as readline cuts them
kek_file("$dir/kek");
mkdir "$dir/keystore", 0700;
open($f, '>', "$dir/walcrypt.ini") or die;
print $f <<E;
[walcrypt]
auth_type = trust
keystore = keystore
admin_users = boss, chief
stats_users = monitor
[kek site]
uri = file:kek
[node red]
keyset = none
[node blue]
keyset = blue
kek = site
[node green]
keyset = green
kek = site
[profile archive]
keyset = vault
kek = site
E
close $f;
chmod 0600, "$dir/walcrypt.ini";
ctl('key', 'init', $_, '--config', "$dir/walcrypt.ini", '--system-identifier', '7000000000000000001') for qw(blue green);
ctl('key', 'new-epoch', 'green', 'blue', '--timeline', 1, '--config', "$dir/walcrypt.ini");

open($f, '>', "$dir/complete") or die;
print $f <<'E';
. "$1"
shift
PATH=$WALCRYPT_PREFIX/bin:$PATH
for line; do
	COMP_LINE=$line COMP_POINT=${#line} COMP_WORDS=()
	rest=$line
	while [[ $rest =~ ^(\ *)([=:]|[^ =:]+)(.*)$ ]]; do
		COMP_WORDS+=("${BASH_REMATCH[2]}")
		rest=${BASH_REMATCH[3]}
	done
	[[ $line != *[\ =:] ]] || COMP_WORDS+=('')
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
	command=$(complete -p "${COMP_WORDS[0]}") || exit 1
	command=${command#*-F }
	"${command%% *}" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
	sorted=$(printf '%s\n' "${COMPREPLY[@]}" | LC_ALL=C sort -u | tr '\n' ' ')
	printf '%s\n' "${sorted% }"
done
E
close $f;
sub completed
{
	my @lines = @_;
	my ($rc, $out, $err) = output('bash', '--norc', "$dir/complete", "$Walcrypt::prefix/share/bash-completion/completions/walcrypt-ctl", @lines);
	is("$rc $err", '0 ', 'bash has nothing to say');
	return split /\n/, $out, -1;
}

my %first = map { s/ .*//r => 1 } @commands, 'help', '--help', '--version';
my @sources = sort qw(command: external: file: kmip: passphrase: pkcs11: site vault-kv: vault-transit:);
my @rows = (
	[ 'walcrypt-ctl ', join ' ', sort keys %first ],
	[ 'walcrypt-ctl swi', 'switchover' ],
	[ 'walcrypt-ctl key ', join ' ', sort map { /^key (.*)/ ? $1 : () } @commands ],
	[ 'walcrypt-ctl help key re', 'repair restore retire' ],
	[ 'walcrypt-ctl nothing ', '' ],
	[ 'walcrypt-ctl switchover --to ', 'blue green red' ],
	[ 'walcrypt-ctl switchover --to=gr', 'green' ],
	[ 'walcrypt-ctl rotate --old ', 'clear reencrypt stop' ],
	[ 'walcrypt-ctl switchover --dr', '--drop-logical-slots --dry-run' ],
	[ 'walcrypt-ctl pause ', 'archive blue green red' ],
	[ 'walcrypt-ctl pause blue ', '' ],
	[ 'walcrypt-ctl pause --except=a', 'archive' ],
	[ 'walcrypt-ctl build -D keystore b', 'blue' ],
	[ 'walcrypt-ctl key show ', 'blue green' ],
	[ 'walcrypt-ctl key show --js', '--json' ],
	[ 'walcrypt-ctl key list ', '' ],
	[ 'walcrypt-ctl key init ', 'blue green vault' ],
	[ 'walcrypt-ctl key init vault --wal-key-of ', 'blue green' ],
	[ 'walcrypt-ctl key init vault -K ', 'AES128 AES192 AES256' ],
	[ 'walcrypt-ctl key alter blue --new-kek ', "@sources" ],
	[ 'walcrypt-ctl key alter blue --new-kek=vault-t', 'vault-transit:' ],
	[ 'walcrypt-ctl key alter blue --new-kek file:k', 'kek keystore' ],
	[ 'walcrypt-ctl key alter blue --new-kek=file:kek', 'kek' ],
	[ 'walcrypt-ctl key retire blue --epoch ', '1 2' ],
	[ 'walcrypt-ctl key retire blue k', 'keystore' ],
	[ 'walcrypt-ctl key backup ke', 'kek keystore' ],
	[ 'walcrypt-ctl key backup file ', 'blue green' ],
	[ 'walcrypt-ctl reencrypt -D ', 'keystore' ],
	[ 'walcrypt-ctl reencrypt -D keystore --to ', 'blue green new none' ],
	[ 'walcrypt-ctl exec -D keystore -- pg_waldum', 'pg_waldump' ],
	[ 'walcrypt-ctl status -U ', 'boss chief monitor' ],
	[ 'walcrypt-proxy --', '--config= --help --help-config --test --version' ],
	[ 'walcrypt-proxy -c wal', 'walcrypt.ini' ]);
{
	my $here = Cwd::getcwd();
	chdir $dir;
	local $ENV{WALCRYPT_CONFIG} = "$dir/walcrypt.ini";
	my @replies = completed(map { $_->[0] } @rows);
	is($replies[$_], $rows[$_][1], "TAB after \"$rows[$_][0]\"") for 0 .. $#rows;
	$ENV{WALCRYPT_CONFIG} = "$dir/none";
	is((completed("walcrypt-ctl key show --config $dir/walcrypt.ini "))[0], 'blue green', '--config counts');
	is((completed('walcrypt-ctl key show '))[0], '', 'no configuration is no error');
	chdir $here;
}

# what make install puts somewhere, make uninstall takes away, and nothing else. (Nothing is compiled: the programs are those of this run.)
{
	my ($root, $b) = ("$dir/root", "$dir/build");
	mkdir $_ for $b, "$b/man", $root, "$root/usr", "$root/usr/share";
	symlink("$Walcrypt::prefix/$_", "$b/$_") or die for qw(bin lib);
	system('cp', values %man, "$b/man") == 0 or die;
	open(my $own, '>', "$root/usr/share/ours") or die;
	close $own;
	my $files = sub { my @found; File::Find::find({ no_chdir => 1, wanted => sub { push @found, substr($_, length $root) if !-d $_ } }, $root); return join ' ', sort @found; };
	my @make = ('make', '-s', "B=$b", "DESTDIR=$root", 'PREFIX=/usr', '-o', 'programs', '-o', 'manuals');
	my ($rc, $out, $err) = output(@make, 'install-tree');
	is($rc, 0, 'install') or diag($err);
	like($files->(), qr{ /usr/share/man/man8/walcrypt-proxy\.8( |$)}, 'there is something');
	like(slurp_from("$root/usr/share/walcrypt/environment.sample"), qr{^LD_PRELOAD = '/usr/lib/walcrypt/}m, 'samples name the place');
	unlike(join('', map { slurp_from($_) } glob("$root/usr/share/walcrypt/*.sample")), qr{/usr/local/(?!sbin)}, 'and no other');
	($rc, $out, $err) = output(@make, 'uninstall');
	is($rc, 0, 'uninstall') or diag($err);
	is($files->(), '/usr/share/ours', 'nothing is left of it');
}
done_testing();
