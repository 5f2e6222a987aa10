# Shed for Homebrew: the client, the server and the host agent, built from the source archive of a tag. A tap has this file as
# Formula/shed.rb; release.sh beside it names the archive and its checksum.
class Shed < Formula
  desc "Persistent virtual machines for development"
  homepage "https://example.org/shed"
  url "https://example.org/shed/archive/v0.1.0.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license "Apache-2.0"

  depends_on "rust" => :build

  on_macos do
    # mke2fs, which formats the disks of sheds.
    depends_on "e2fsprogs"
    depends_on macos: :ventura
    depends_on "vfkit"
  end

  def install
    %w[shed shed-server shed-host-agent].each do |program|
      system "cargo", "install", *std_cargo_args(path: "bin/#{program}")
    end
    return unless OS.mac?

    # Cargo's linker signs, but names no entitlements.
    system "codesign", "--force", "--sign", "-", "--entitlements", "packaging/macos/shed-server.entitlements",
           bin/"shed-server"
  end

  service do
    run [opt_bin/"shed-server", "serve"]
    keep_alive successful_exit: false
    # Anything else is slowed down while somebody works at the Mac, and machines with it.
    process_type :interactive
    environment_variables PATH: std_service_path_env
    log_path var/"log/shed-server.log"
    error_log_path var/"log/shed-server.log"
  end

  def caveats
    <<~EOS
      Start the server at each login by one of these, not by both:
        brew services start shed
        shed-server install --now

      Kernel, initramfs and images for sheds are built on Linux, and belong on a Mac into
        ~/Library/Application Support/shed/vz
      What is missing, and how to get it, is said by
        shed-server doctor
    EOS
  end

  test do
    assert_equal "shed-server #{version}", shell_output("#{bin}/shed-server version").strip
    assert_match version.to_s, shell_output("#{bin}/shed --version")
    assert_match version.to_s, shell_output("#{bin}/shed-host-agent --version")
    (testpath/"server.yaml").write "http_port: #{free_port}\nssh_port: #{free_port}\n"
    assert_match "ssh_port", shell_output("#{bin}/shed-server serve --config server.yaml --print-config")
    # What it does not know it refuses, and says where.
    (testpath/"bad.yaml").write "nonsense: 1\n"
    assert_match "bad.yaml:1:1", shell_output("#{bin}/shed-server serve --config bad.yaml 2>&1", 1)
  end
end
