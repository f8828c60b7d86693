# The main round trip once more with every part built with the address and undefined-behaviour sanitizers.
use strict;
use warnings;

BEGIN
{
	$ENV{WALCRYPT_PREFIX} .= '-asan';
	# a preloaded library needs the sanitizer's run time in front of it
	chomp($ENV{WALCRYPT_PRELOAD_FIRST} = `gcc -print-file-name=libasan.so`);
	# the stock server leaks on purpose, and its memory contexts are not the allocator's
	$ENV{ASAN_OPTIONS} = 'detect_leaks=0:abort_on_error=1:verify_asan_link_order=0';
}

# loaded at compile time: their INIT blocks would come too late inside the do
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use File::Basename;
do './' . dirname($0) . '/001_main.pl' or die $@ || $!;
