# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Descriptors as the field's exporters write them, and a small one to put pieces into."""

from __future__ import annotations

OVF_1 = "http://schemas.dmtf.org/ovf/envelope/1"
OVF_2 = "http://schemas.dmtf.org/ovf/envelope/2"
RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
VMW = "http://www.vmware.com/schema/ovf"
STREAM_OPTIMIZED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"


def small(
    references="",
    sections="",
    machine="",
    namespace=OVF_1,
    hardware="<vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>",
):
    """The least that describes a machine, with what is given at its places."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="{namespace}" xmlns:ovf="{namespace}" xmlns:rasd="{RASD}" xmlns:vssd="{VSSD}" xmlns:vmw="{VMW}">
  <References>{references}</References>
  {sections}
  <VirtualSystem ovf:id="small">
    <Info>A machine</Info>
    {machine}
    <VirtualHardwareSection><Info/><System>{hardware}</System></VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
""".encode()


# As vCenter exports an appliance: everything in the default namespace, prefixes on attributes.
APPLIANCE = f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope vmw:buildId="build-20000001" xmlns="{OVF_1}" xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common"
    xmlns:ovf="{OVF_1}" xmlns:rasd="{RASD}" xmlns:vmw="{VMW}" xmlns:vssd="{VSSD}"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <References>
    <File ovf:href="mailgate-disk1.vmdk" ovf:id="file1" ovf:size="734003200"/>
    <File ovf:href="mailgate-disk2.vmdk.gz" ovf:id="file2" ovf:size="4096" ovf:compression="gzip"/>
    <File ovf:href="mailgate tools.iso" ovf:id="file3" ovf:size="362496"/>
    <File ovf:href="mailgate-file4.nvram" ovf:id="file4" ovf:size="8684"/>
    <File ovf:href="big.vmdk" ovf:id="file5" ovf:size="5000000000" ovf:chunkSize="2147483648"/>
  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
    <Disk ovf:capacity="40" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk1" ovf:fileRef="file1"
        ovf:format="{STREAM_OPTIMIZED}" ovf:populatedSize="1468006400"/>
    <Disk ovf:capacity="${{spool.size_gb}}" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk2"
        ovf:format="{STREAM_OPTIMIZED}"/>
    <Disk ovf:capacity="16384" ovf:capacityAllocationUnits="MegaBytes" ovf:diskId="vmdisk3" ovf:fileRef="file5"
        ovf:parentRef="vmdisk1"/>
  </DiskSection>
  <NetworkSection>
    <Info>Logical networks</Info>
    <Network ovf:name="Outside"><Description>Towards the world</Description></Network>
    <Network ovf:name="Inside"/>
  </NetworkSection>
  <DeploymentOptionSection>
    <Info>Sizes</Info>
    <Configuration ovf:id="small">
      <Label ovf:msgid="small.label">Small</Label><Description>To 100 users</Description></Configuration>
    <Configuration ovf:default="true" ovf:id="large">
      <Label>Large</Label><Description>Beyond</Description></Configuration>
  </DeploymentOptionSection>
  <vmw:IpAssignmentSection ovf:required="true" vmw:protocols="IPv4" vmw:schemes="ovfenv">
    <Info/></vmw:IpAssignmentSection>
  <VirtualSystem ovf:id="mailgate">
    <Info>A virtual machine</Info>
    <Name>Mail gateway</Name>
    <AnnotationSection><Info/><Annotation>Ours</Annotation></AnnotationSection>
    <EulaSection><Info>Licence</Info><License ovf:msgid="eula"/></EulaSection>
    <EulaSection><Info>Second licence</Info><License>Be kind.</License></EulaSection>
    <ProductSection>
      <Info>About it</Info>
      <Product>Mailgate</Product><Vendor>Example</Vendor><Version>4</Version><FullVersion>4.2.1-77</FullVersion>
      <Property ovf:key="hostname" ovf:type="string" ovf:userConfigurable="true" ovf:qualifiers="MinLen(1),MaxLen(63)">
        <Label>Host name</Label><Description>Its full name</Description>
      </Property>
      <Category>Storage</Category>
      <Property ovf:key="spool.size_gb" ovf:type="uint16" ovf:userConfigurable="true" ovf:value="10">
        <Value ovf:value="20" ovf:configuration="large"/>
      </Property>
      <Category ovf:msgid="security">Security</Category>
      <Property ovf:key="root_password" ovf:type="string" ovf:password="true" ovf:userConfigurable="true"
          ovf:qualifiers="MinLen(8)" ovf:value=""/>
      <Property ovf:key="build" ovf:type="string" ovf:value="77"/>
    </ProductSection>
    <ProductSection ovf:class="vami" ovf:instance="mailgate" ovf:required="false">
      <Info>Network</Info>
      <Property ovf:key="ip0" ovf:type="ip" vmw:qualifiers="Ip(&quot;Outside&quot;)" ovf:userConfigurable="true"/>
    </ProductSection>
    <OperatingSystemSection ovf:id="96" vmw:osType="debian11_64Guest">
      <Info/><Description>Debian GNU/Linux 11</Description></OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="com.vmware.guestInfo iso">
      <Info>Hardware</Info>
      <System>
        <vssd:ElementName>Family</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemType>vmx-13, vmx-14</vssd:VirtualSystemType>
      </System>
      <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
      <Item ovf:configuration="large"><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>8</rasd:VirtualQuantity></Item>
      <Item ovf:bound="max"><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>16</rasd:VirtualQuantity></Item>
      <Item ovf:configuration="small"><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>
      <Item ovf:configuration="medium large"><rasd:AllocationUnits>byte * 2^30</rasd:AllocationUnits>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>16</rasd:VirtualQuantity></Item>
      <Item><rasd:AutomaticAllocation>true</rasd:AutomaticAllocation><rasd:Connection>Outside</rasd:Connection>
        <rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType></Item>
      <Item><rasd:Connection>Inside</rasd:Connection>
        <rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType></Item>
      <Item><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource>
        <rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType></Item>
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
      <vmw:ExtraConfig ovf:required="false" vmw:key="nvram" vmw:value="ovf:/file/file4"/>
    </VirtualHardwareSection>
  </VirtualSystem>
  <Strings xml:lang="de-DE">
    <Msg ovf:msgid="eula">Alle Rechte vorbehalten.</Msg><Msg ovf:msgid="security">Sicherheit</Msg></Strings>
  <Strings xml:lang="en-US"><Msg ovf:msgid="eula">All rights reserved.</Msg></Strings>
</Envelope>
""".encode()

# As VirtualBox exports a machine: sections of its own, its own kind of virtual system, no sizes of files.
VIRTUALBOX = f"""<?xml version="1.0"?>
<Envelope ovf:version="1.0" xml:lang="en-US" xmlns="{OVF_1}" xmlns:ovf="{OVF_1}" xmlns:rasd="{RASD}" xmlns:vssd="{VSSD}"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:vbox="http://www.virtualbox.org/ovf/machine">
  <References>
    <File ovf:id="file1" ovf:href="desk-disk001.vmdk"/>
  </References>
  <DiskSection>
    <Info>List of the virtual disks used in the package</Info>
    <Disk ovf:capacity="21474836480" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="{STREAM_OPTIMIZED}"
        vbox:uuid="b0"/>
  </DiskSection>
  <NetworkSection><Info/><Network ovf:name="NAT"><Description>Used here</Description></Network></NetworkSection>
  <VirtualSystem ovf:id="desk">
    <Info>A virtual machine</Info>
    <OperatingSystemSection ovf:id="94"><Info/><Description>Ubuntu_64</Description>
      <vbox:OSType ovf:required="false">Ubuntu_64</vbox:OSType></OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System><vssd:ElementName>Virtual Hardware Family</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>desk</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>virtualbox-2.2</vssd:VirtualSystemType></System>
      <Item><rasd:Caption>2 virtual CPU</rasd:Caption><rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
      <Item><rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>4096</rasd:VirtualQuantity></Item>
      <Item><rasd:AutomaticAllocation>true</rasd:AutomaticAllocation><rasd:Connection>NAT</rasd:Connection>
        <rasd:InstanceID>7</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType></Item>
    </VirtualHardwareSection>
    <vbox:Machine ovf:required="false" version="1.19-linux" uuid="{{c0}}" name="desk"><ovf:Info>Settings</ovf:Info>
      <Hardware><CPU count="2"/></Hardware></vbox:Machine>
  </VirtualSystem>
</Envelope>
""".encode()

# As ovftool writes a system of machines, with a prefix on every element.
SYSTEM = f"""<?xml version='1.0' encoding='UTF-8'?>
<ovf:Envelope xmlns:ovf="{OVF_1}" xmlns:rasd="{RASD}" xmlns:vssd="{VSSD}">
  <ovf:NetworkSection><ovf:Info/><ovf:Network ovf:name="Back end"/></ovf:NetworkSection>
  <ovf:References/>
  <ovf:VirtualSystemCollection ovf:id="shop">
    <ovf:Info/>
    <ovf:EulaSection><ovf:Info/><ovf:License>For all of it.</ovf:License></ovf:EulaSection>
    <ovf:StartupSection ovf:required="true"><ovf:Info/><ovf:Item ovf:id="db" ovf:order="1"/></ovf:StartupSection>
    <ovf:VirtualSystem ovf:id="db"><ovf:Info/>
      <ovf:ProductSection><ovf:Info/><ovf:Property ovf:key="name" ovf:type="string"/></ovf:ProductSection>
      <ovf:VirtualHardwareSection><ovf:Info/></ovf:VirtualHardwareSection></ovf:VirtualSystem>
    <ovf:VirtualSystemCollection ovf:id="front">
      <ovf:Info/>
      <ovf:VirtualSystem ovf:id="web"><ovf:Info/>
        <ovf:ProductSection><ovf:Info/><ovf:Property ovf:key="name" ovf:type="string"/></ovf:ProductSection>
      </ovf:VirtualSystem>
    </ovf:VirtualSystemCollection>
  </ovf:VirtualSystemCollection>
</ovf:Envelope>
""".encode()
